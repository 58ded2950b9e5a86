//! A secret from the terminal, without showing it.

use std::fs::File;
use std::io::{self, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios};
use rustix::termios::{tcgetattr, tcsetattr};

/// Most bytes that are taken.
const MAX: usize = 4096;

/// Gives the terminal back as it was.
struct Quiet<'a> {
    terminal: &'a File,
    before: Termios,
}

/// Asks with `prompt` and reads a line. Ctrl-C ends it as an error, with the terminal as it was.
pub(super) fn ask(prompt: &str) -> io::Result<String> {
    let terminal = File::options().read(true).write(true).open("/dev/tty")?;
    (&terminal).write_all(prompt.as_bytes())?;
    let quiet = Quiet::begin(&terminal)?;
    let line = read(&terminal);
    drop(quiet);
    (&terminal).write_all(b"\n")?;
    line
}

impl<'a> Quiet<'a> {
    fn begin(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut quiet = before.clone();
        // Key by key, with Ctrl-C as a key: a signal would end the process with the echo off.
        quiet.local_modes &= !(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        quiet.special_codes[SpecialCodeIndex::VMIN] = 1;
        quiet.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(terminal, OptionalActions::Flush, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // There is nothing else to try.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// A line as it is typed, with what takes it back.
fn read(keys: impl Read) -> io::Result<String> {
    let mut line = Vec::new();
    // One at a time: what is typed ahead is for whoever asks next.
    for key in io::BufReader::with_capacity(1, keys).bytes() {
        match key? {
            b'\r' | b'\n' => {
                let text = String::from_utf8(line);
                return text.map_err(|_| io::Error::other("what was typed is not UTF-8"));
            }
            // Ctrl-C, Ctrl-D
            3 | 4 => break,
            // Backspace: the bytes of one character
            8 | 127 => while line.pop().is_some_and(|byte| byte & 0xC0 == 0x80) {},
            // Ctrl-U
            21 => line.clear(),
            byte if line.len() < MAX => line.push(byte),
            _ => return Err(io::Error::other("what was typed is too long")),
        }
    }
    Err(io::Error::new(io::ErrorKind::Interrupted, "nothing was typed; nothing is changed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_a_line_and_some_take_back() {
        assert_eq!(read(&b"secret\rrest"[..]).unwrap(), "secret");
        assert_eq!(read("sec\u{7f}\u{e9}\u{7f}ret\n".as_bytes()).unwrap(), "seret");
        assert_eq!(read(&b"\x7fwrong\x15right\n"[..]).unwrap(), "right");
        for given_up in ["sec\u{3}ret\n", "\u{4}", "no end"] {
            assert!(read(given_up.as_bytes()).is_err());
        }
        assert!(read(&[b'x'; MAX + 2][..]).is_err());
    }
}
