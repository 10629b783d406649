//! Somebody who builds in a directory, with nothing in his home.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use fixtures::den::Den;
use serde_json::Value;

pub const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");

/// A home and a directory of their own.
pub struct Bench {
    pub den: Den,
}

impl Bench {
    /// With these files in its directory.
    pub fn new(files: &[(&str, &str)]) -> Self {
        let bench = Self { den: Den::new("images") };
        std::fs::create_dir(bench.path()).unwrap();
        for (name, content) in files {
            std::fs::write(bench.path().join(name), content).unwrap();
        }
        bench
    }

    pub fn path(&self) -> PathBuf {
        self.den.path().join("place")
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(LIGHTER);
        command.args(words).current_dir(self.path()).stdin(Stdio::null());
        command.env_clear().env("HOME", self.den.path().join("home")).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("lighter starts")
    }

    /// stdout and stderr of a command that goes well.
    pub fn does(&self, words: &[&str]) -> (String, String) {
        let output = self.run(words);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {told}");
        (String::from_utf8_lossy(&output.stdout).trim().to_owned(), told)
    }

    pub fn manifest(&self, image: &str) -> Value {
        serde_json::from_str(&self.does(&["inspect", "--raw", image]).0).unwrap()
    }

    pub fn config(&self, image: &str) -> Value {
        serde_json::from_str(&self.does(&["inspect", "--config", image]).0).unwrap()
    }

    /// The files of an image of the local store, as a tar.
    pub fn file_of_image(&self, image: &str) -> Vec<u8> {
        let archive = self.path().join("image.tar");
        let _ = std::fs::remove_file(&archive); // of an earlier call
        self.does(&["copy", &format!("local:{image}"), &format!("oci-archive:{}", archive.display())]);
        std::fs::read(archive).unwrap()
    }

    pub fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(name)).unwrap()
    }
}

/// A file, an image of it, and two labels.
pub const PLAIN: &[(&str, &str)] =
    &[("Dockerfile", "FROM scratch\nCOPY f /f\nLABEL own=1 both=file\n"), ("f", "content")];
