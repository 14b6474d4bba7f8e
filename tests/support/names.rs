//! Names that have the addresses that a test gives them: a library that takes the place of the system's look-up.

use super::process::Sortie;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::Duration;

/// The look-up: it finds the addresses in `ADDRESSES`, and adds a line to the file `LOOK_UPS`.
const LIBRARY: &str = r#"
use std::ffi::{c_char, c_int, c_void};
use std::io::Write;
use std::ptr::null_mut;

#[repr(C)]
pub struct Info { flags: c_int, family: c_int, kind: c_int, protocol: c_int, length: u32, address: *mut c_void,
    name: *mut c_char, next: *mut Info }
#[repr(C)]
struct Address { family: u16, port: u16, address: [u8; 4], zero: [u8; 8] }

#[unsafe(no_mangle)]
pub unsafe extern "C" fn getaddrinfo(_: *const c_char, _: *const c_char, _: *const c_void, found: *mut *mut Info) -> c_int {
    let mut file = std::fs::File::options().append(true).create(true).open(std::env::var_os("LOOK_UPS").unwrap()).unwrap();
    file.write_all(b"look-up\n").unwrap();
    let mut first = null_mut();
    for address in std::env::var("ADDRESSES").unwrap().rsplit(',') {
        let address: std::net::Ipv4Addr = address.parse().unwrap();
        let address = Address { family: 2, port: 0, address: address.octets(), zero: [0; 8] };
        let address = Box::into_raw(Box::new(address)).cast();
        let info = Info { flags: 0, family: 2, kind: 1, protocol: 6, length: 16, address, name: null_mut(), next: first };
        first = Box::into_raw(Box::new(info));
    }
    unsafe { *found = first };
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn freeaddrinfo(_: *mut Info) {}
"#;

/// Gives every name these addresses, for this command.
pub fn known_as(command: Sortie, addresses: &[Ipv4Addr]) -> (Sortie, LookUps) {
    let look_ups = LookUps(tempfile::tempdir().expect("a folder"));
    let [source, library, log] = ["names.rs", "names.so", "log"].map(|name| look_ups.0.path().join(name));
    std::fs::write(&source, LIBRARY).expect("write a file");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut compile = Command::new(rustc);
    compile.args(["--crate-type", "cdylib", "--edition", "2024", "-o"]).arg(&library).arg(&source);
    assert!(compile.status().expect("rustc").success(), "{compile:?}");
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let command = command.env("LD_PRELOAD", &library).env("ADDRESSES", addresses.join(",")).env("LOOK_UPS", &log);
    (command, look_ups)
}

/// The look-ups of a command.
pub struct LookUps(tempfile::TempDir);

impl LookUps {
    pub fn count(&self) -> usize {
        std::fs::read_to_string(self.0.path().join("log")).unwrap_or_default().lines().count()
    }
}

/// A socket whose queue is full, so that a connect to it hangs for as long as this lasts.
pub struct BlackHole {
    _listener: OwnedFd,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    pub fn at(address: Ipv4Addr, port: u16) -> Self {
        use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
        let address = SocketAddrV4::new(address, port);
        let listener = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&listener, &address).expect("an address on loopback");
        listen(&listener, 0).expect("a listener");
        let connect = |_| TcpStream::connect_timeout(&SocketAddr::V4(address), Duration::from_millis(300)).ok();
        let queued: Vec<_> = (0..64).map_while(connect).collect();
        assert!(queued.len() < 64, "the queue has no end");
        Self { _listener: listener, _queued: queued }
    }
}
