//! A folder with the bundled example and the binary under test.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A temporary folder that commands run in.
pub(crate) struct World {
    folder: tempfile::TempDir,
}

/// What a command left behind.
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl World {
    /// The digits network, its labels and its images.
    pub(crate) fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/digits");
        for name in ["digits.onnx", "labels.txt"] {
            std::fs::copy(example.join(name), world.path(name)).expect("the example is there");
        }
        std::fs::create_dir(world.path("images")).expect("writable");
        for class in 0..10 {
            let name = format!("images/{class}.png");
            std::fs::copy(example.join(&name), world.path(&name)).expect("the example is there");
        }
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).expect("writable");
    }

    /// Names of all files and folders.
    pub(crate) fn listing(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).expect("readable");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The command, not started.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cordon"));
        command.args(args).current_dir(self.folder.path());
        command.env("XDG_DATA_HOME", self.path("data")).env_remove("NO_COLOR");
        command
    }

    /// Runs to the end.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        let Output { status, stdout, stderr } = self.command(args).output().expect("the binary starts");
        Ran {
            status: status.code().unwrap_or(-1),
            stdout: String::from_utf8(stdout).expect("UTF-8"),
            stderr: String::from_utf8(stderr).expect("UTF-8"),
        }
    }

    /// Runs and demands success.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.status, 0, "cordon {}\n{}{}", args.join(" "), ran.stdout, ran.stderr);
        ran.stdout
    }

    /// Runs and demands failure with status 1 and a next step, in two lines or, with `--json`, as one object; returns stderr.
    pub(crate) fn fails(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.status, 1, "cordon {}\n{}{}", args.join(" "), ran.stdout, ran.stderr);
        let [begin, next] =
            if args.contains(&"--json") { ["{\"error\":{", "\"next\":\""] } else { ["error: ", "\n  next: "] };
        assert!(ran.stderr.starts_with(begin) && ran.stderr.contains(next), "{}", ran.stderr);
        ran.stderr
    }
}
