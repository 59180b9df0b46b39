//! writ-agent.

fn main() -> std::process::ExitCode {
    writ_agent::main()
}
