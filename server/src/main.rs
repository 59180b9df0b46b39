//! writ-server.

fn main() -> std::process::ExitCode {
    writ_server::main()
}
