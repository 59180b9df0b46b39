//! Running the Python that checks our work with code that is not ours. `make` installs what it imports.

use std::path::{Path, PathBuf};
use std::process::Output;

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
    let mut python = std::process::Command::new("python3");
    python.arg("-c").arg(script).args(arguments).output().unwrap()
}

/// Runs a script below the repository with the packages `make` put into `target/python`.
///
/// # Panics
/// When Python is missing.
#[must_use]
pub fn run(script: &str, arguments: &[&str]) -> Output {
    let root = root();
    let packages = root.join("target/python");
    assert!(packages.is_dir(), "{} is missing; run the tests with: make test", packages.display());
    #[expect(clippy::disallowed_methods, reason = "tests start what they test against")]
    let mut python = std::process::Command::new("python3");
    python
        .arg(root.join(script))
        .args(arguments)
        .env("PYTHONPATH", packages)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    python.output().unwrap()
}
