//! writ-server with the stories' seams; never shipped.

fn main() -> std::process::ExitCode {
    writ_server::main()
}
