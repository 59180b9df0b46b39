//! writ-control-manager.

fn main() -> std::process::ExitCode {
    writ_control_manager::main()
}
