//! Running the Python that checks our work with code that is not ours. `make` installs what it imports.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Runs a few lines with nothing but Python's own library.
///
/// # Panics
/// When Python is missing.
#[must_use]
pub fn inline(script: &str, arguments: &[&str]) -> Output {
    #[expect(clippy::disallowed_methods, reason = "tests start what they test against")]
    let mut python = Command::new("python3");
    python.arg("-c").arg(script).args(arguments).output().unwrap()
}

/// Lets a program, and what it starts, find the packages that `make` put into `target/python`, and their
/// programs.
///
/// # Panics
/// When they are not there.
pub fn with_packages(command: &mut Command) -> &mut Command {
    let packages = root().join("target/python");
    assert!(packages.is_dir(), "{} is missing; run the tests with: make test", packages.display());
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .env("PATH", format!("{}:{path}", packages.join("bin").display()))
        .env("PYTHONPATH", packages)
        .env("PYTHONDONTWRITEBYTECODE", "1")
}

/// Runs a script below the repository with the packages `make` put into `target/python`.
///
/// # Panics
/// When Python is missing.
#[must_use]
pub fn run(script: &str, arguments: &[&str]) -> Output {
    #[expect(clippy::disallowed_methods, reason = "tests start what they test against")]
    let mut python = Command::new("python3");
    python.arg(root().join(script)).args(arguments);
    with_packages(&mut python).output().unwrap()
}
