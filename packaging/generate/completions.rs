//! Completions, in the places where Debian's shells look for them.

use std::io;
use std::path::Path;

use clap_complete::{Shell, generate};

/// One file for each shell, named as the shell wants it.
pub(crate) fn write(program: &clap::Command, folder: &Path) -> io::Result<()> {
    for (shell, name) in [
        (Shell::Bash, "bash/tidegate"),
        (Shell::Fish, "fish/tidegate.fish"),
        (Shell::Zsh, "zsh/_tidegate"),
    ] {
        let mut text = Vec::new();
        generate(shell, &mut program.clone(), "tidegate", &mut text);
        let path = folder.join(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, text)?;
    }
    Ok(())
}
