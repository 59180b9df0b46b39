//! writ-server.

fn main() -> std::process::ExitCode {
    writ_server::app::main()
}
