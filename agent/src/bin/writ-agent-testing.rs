//! writ-agent with the stories' seams; never shipped.

fn main() -> std::process::ExitCode {
    writ_agent::main()
}
