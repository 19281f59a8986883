//! The store: memory of the normal world where weights lie that have no room inside, as far as a command brings it.
//!
//! The enclave names the window that the next command must bring, and sees that much only while it handles the command. It
//! counts places from the store's beginning; here, and nowhere else, they become places in the window.

use cordon_protocol::Window;

/// The window of the store that a command brings. The normal world may look at it and change it at any time. Offsets count
/// from the window's beginning and are multiples of 8. Several threads may read, or write at different places, at once.
pub trait Store: Sync {
    /// Copies the bytes from `offset` on; false when there are not as many.
    fn read(&self, offset: u64, into: &mut [u8]) -> bool;

    /// So many bytes from `offset` on will be read next: brings them closer, where that can be done. Changes nothing.
    fn soon(&self, offset: u64, len: usize) {
        let _ = (offset, len);
    }

    /// Puts bytes at `offset`, and zeros behind them up to a multiple of 8; false when there is no room.
    fn write(&self, offset: u64, bytes: &[u8]) -> bool;
}

/// The window that was asked for, and the memory that came.
#[derive(Clone, Copy)]
pub(crate) struct Brought<'a> {
    pub(crate) window: Window,
    memory: &'a dyn Store,
}

impl<'a> Brought<'a> {
    pub(crate) fn new(window: Window, memory: &'a dyn Store) -> Self {
        Self { window, memory }
    }

    /// Copies the bytes from place `at` of the store; false when they are not all in the window.
    pub(crate) fn read(&self, at: u64, into: &mut [u8]) -> bool {
        self.place(at, into.len()).is_some_and(|offset| self.memory.read(offset, into))
    }

    pub(crate) fn soon(&self, at: u64, len: usize) {
        if let Some(offset) = self.place(at, len) {
            self.memory.soon(offset, len);
        }
    }

    /// Puts bytes at place `at` of the store; false when it is not in the window.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> bool {
        self.place(at, bytes.len()).is_some_and(|offset| self.memory.write(offset, bytes))
    }

    fn place(&self, at: u64, len: usize) -> Option<u64> {
        let offset = at.checked_sub(self.window.offset)?;
        let end = offset.checked_add(u64::try_from(len).ok()?)?;
        (end <= self.window.len.into()).then_some(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes whatever is asked of it.
    struct Boundless;

    impl Store for Boundless {
        fn read(&self, _: u64, _: &mut [u8]) -> bool {
            true
        }

        fn write(&self, _: u64, _: &[u8]) -> bool {
            true
        }
    }

    #[test]
    fn nothing_outside_the_window_is_reached() {
        let brought = Brought::new(Window { offset: 64, len: 32 }, &Boundless);
        for (at, len, inside) in [
            (64, 32, true),
            (88, 8, true),
            (96, 0, true),
            (56, 8, false),
            (63, 1, false),
            (64, 33, false),
            (95, 2, false),
            (96, 1, false),
            (0, 8, false),
            (u64::MAX, 1, false),
            (u64::MAX - 7, 16, false),
        ] {
            let mut bytes = [0; 64];
            let (read, write) = (brought.read(at, &mut bytes[..len]), brought.write(at, &bytes[..len]));
            assert_eq!((read, write), (inside, inside), "{len} bytes at {at}");
        }
    }
}
