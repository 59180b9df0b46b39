//! Writes what packages carry beside the programs: man pages and completions, made from the command lines
//! themselves.

use std::env;
use std::fs;
use std::io;
use std::path::Path;

use clap_complete::{Shell, generate_to};
use integration_tests::manual;

fn main() -> io::Result<()> {
    let target = env::args_os().nth(1).ok_or_else(|| io::Error::other("usage: manuals FOLDER"))?;
    let completions = Path::new(&target).join("completions");
    fs::create_dir_all(&completions)?;
    for mut program in manual::programs() {
        let name = program.get_name().to_owned();
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let path = generate_to(shell, &mut program, &name, &completions)?;
            // That of the operators' program asks their server for names.
            if name == "writ" {
                let script =
                    writ::completion(&shell.to_string()).ok_or_else(|| io::Error::other("no script"))?;
                fs::write(path, script)?;
            }
        }
        manual::write(&program, &Path::new(&target).join("man").join(&name))?;
    }
    // The page of `writ server` would take the name of the server's own.
    fs::remove_file(Path::new(&target).join("man/writ/writ-server.1"))
}
