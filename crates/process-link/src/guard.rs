//! Protections that only a Linux process has; [`cordon_protocol::Guard`] has those of every platform.

use cordon_protocol::Guard;

macro_rules! guards {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        $($(#[$doc])* pub const $name: Guard = Guard::new($word);)*

        /// Every one of them.
        pub const ALL: &[Guard] = &[$($name),*];
    };
}

guards! {
    /// The bytes that run are the bytes that were sealed in memory before execution.
    SEALED_IMAGE = "sealed-image",
    /// Started with an empty environment and no descriptor but its own.
    EMPTY_ENVIRONMENT = "empty-environment",
    /// No descendant can gain privileges.
    NO_NEW_PRIVILEGES = "no-new-privileges",
    /// Processes of the same user cannot attach or read memory.
    NOT_DUMPABLE = "not-dumpable",
    /// A crash writes no core file.
    NO_CORE_FILE = "no-core-file",
    /// Only listed system calls; any other ends the enclave.
    SYSTEM_CALL_FILTER = "system-call-filter",
    /// No file can be opened.
    NO_FILES = "no-file-access",
    /// No TCP connection can be made or accepted, by the security module (the filter denies sockets anyway).
    NO_NETWORK = "no-network-access",
    /// Keys and stacks lie in memory that the kernel itself does not map.
    SECRET_KEYS = "secret-memory-keys",
    /// Everything else does, too.
    SECRET_HEAP = "secret-memory-heap",
    /// Memory is never written to swap.
    LOCKED = "locked-memory",
    /// The enclave dies with the process that started it.
    DIES_WITH_HOST = "dies-with-host",
    /// The device key was read only after every protection above was in place.
    KEY_READ_LAST = "key-read-last",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_word_of_its_own() {
        let all: alloc::vec::Vec<&str> = ALL.iter().chain(Guard::ALL).map(Guard::name).collect();
        for (index, word) in all.iter().enumerate() {
            assert!(Guard::is_word(word) && !all[..index].contains(word), "{word}");
        }
    }
}
