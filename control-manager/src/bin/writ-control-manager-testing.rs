//! writ-control-manager with the stories' seams; never shipped.

fn main() -> std::process::ExitCode {
    writ_control_manager::main()
}
