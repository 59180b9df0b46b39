//! writ.

fn main() -> std::process::ExitCode {
    writ::main()
}
