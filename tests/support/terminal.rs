//! A pseudo-terminal: what the client writes to it arrives here, byte for byte.

use super::watched::Watched;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

/// Ends what is read: no client ever writes it.
const MARK: &[u8] = b"\x00-- the end --\x00";

/// See the module.
pub struct Terminal {
    /// The path of the client's side.
    pub path: PathBuf,
    slave: File,
    said: Arc<Watched<Vec<u8>>>,
}

impl Terminal {
    /// A terminal of 60 columns.
    pub fn open() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master).expect("the right to it");
        unlockpt(&master).expect("its other side");
        let path = PathBuf::from(std::ffi::OsString::from_vec(ptsname(&master, Vec::new()).unwrap().into_bytes()));
        let slave = File::options().read(true).write(true).open(&path).expect("its other side");
        let mut modes = tcgetattr(&slave).unwrap();
        // Nothing is changed on the way.
        modes.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &modes).unwrap();
        tcsetwinsize(&slave, Winsize { ws_row: 24, ws_col: 60, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let said = Arc::new(Watched::new(Vec::new()));
        let mut master = File::from(master);
        thread::spawn({
            let said = Arc::clone(&said);
            move || {
                let mut window = vec![0; 64 * 1024];
                while let Ok(read @ 1..) = master.read(&mut window) {
                    said.change(|said| said.extend_from_slice(&window[..read]));
                }
            }
        });
        Self { path, slave, said }
    }

    /// The client's side, to be given to it.
    pub fn file(&self) -> File {
        self.slave.try_clone().expect("another handle")
    }

    /// Waits until the client has said this.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        self.said.expect(&format!("{text:?} on the terminal"), |said| {
            said.windows(text.len()).any(|window| window == text.as_bytes()).then_some(())
        });
    }

    /// All that was said, once the client has ended.
    pub fn said(mut self) -> String {
        self.slave.write_all(MARK).expect("a mark");
        let all = self.said.expect("the terminal's end", |said| said.ends_with(MARK).then(|| std::mem::take(said)));
        String::from_utf8(all[..all.len() - MARK.len()].to_vec()).expect("UTF-8 on the terminal")
    }
}
