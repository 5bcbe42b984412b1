//! The server beside OpenSSH's own: the same requests to both, on copies of one tree.
//!
//! Needs root and the package openssh-sftp-server; fails loudly without.

#[path = "openssh/random.rs"]
mod random;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use linux::stat::FileKind;
use linux::testing::make_node;
use sftp_server::attrs::Attrs;
use sftp_server::codec::{Fields, Packet};

const OURS: &str = env!("CARGO_BIN_EXE_sftp-server");
const OPENSSH: &str = "/usr/lib/openssh/sftp-server";

struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
}

impl Peer {
    fn start(command: &mut Command, dir: &Path) -> Peer {
        let mut child = command
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("OpenSSH's sftp-server is installed");
        let (input, output) = (child.stdin.take(), child.stdout.take().unwrap());
        Peer { child, input, output }
    }

    fn ours(dir: &Path) -> Peer {
        let mut peer = Peer::start(&mut Command::new(OURS), dir);
        peer.ask(Packet::new(1).u32(3));
        peer
    }

    fn send(&mut self, packet: Packet) {
        self.input.as_mut().unwrap().write_all(&packet.finish()).unwrap();
    }

    /// The next answer without its length; empty if there is none any more.
    fn receive(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        if self.output.read_exact(&mut length).is_err() {
            return Vec::new();
        }
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        self.output.read_exact(&mut answer).unwrap();
        answer
    }

    fn ask(&mut self, packet: Packet) -> Vec<u8> {
        self.send(packet);
        self.receive()
    }

    fn end(mut self) -> std::process::ExitStatus {
        self.input = None;
        self.child.wait().unwrap()
    }
}

fn tree(root: &Path) {
    fs::create_dir_all(root.join("dir/sub")).unwrap();
    fs::write(root.join("file"), "0123456789").unwrap();
    fs::write(root.join("dir/other"), "other").unwrap();
    fs::write(root.join("setuid"), "").unwrap();
    fs::set_permissions(root.join("setuid"), PermissionsExt::from_mode(0o6755)).unwrap();
    symlink("file", root.join("link")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    make_node(&root.join("fifo"), FileKind::Fifo, 0o400, (0, 0)).unwrap();
    for name in 0..150 {
        fs::write(root.join(format!("dir/sub/{name}")), "").unwrap();
    }
    let stamp = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    for path in ["file", "dir/other", "setuid", "dir/sub", "dir"] {
        fs::File::open(root.join(path)).unwrap().set_modified(stamp).unwrap();
    }
}

fn at(handle: u32) -> [u8; 4] {
    handle.to_be_bytes()
}

fn by_path(kind: u8, path: &[u8]) -> Packet {
    Packet::new(kind).u32(7).string(path)
}

fn open(path: &[u8], flags: u32) -> Packet {
    by_path(3, path).u32(flags).u32(0)
}

fn by_handle(kind: u8, handle: u32) -> Packet {
    Packet::new(kind).u32(7).string(&at(handle))
}

fn extended(name: &str) -> Packet {
    Packet::new(200).u32(7).string(name.as_bytes())
}

fn read(handle: u32, offset: u64, length: u32) -> Packet {
    by_handle(5, handle).u64(offset).u32(length)
}

fn write(handle: u32, offset: u64, data: &[u8]) -> Packet {
    by_handle(6, handle).u64(offset).string(data)
}

fn copy(from: u32, offset: u64, length: u64, to: u32, at_offset: u64) -> Packet {
    let packet = extended("copy-data").string(&at(from)).u64(offset).u64(length);
    packet.string(&at(to)).u64(at_offset)
}

/// Every operation, in ways that succeed and in ways that fail.
fn conversation() -> Vec<(&'static str, Packet)> {
    let mut steps = vec![("version", Packet::new(1).u32(3))];
    steps.extend(looking());
    steps.extend(files());
    steps.extend(changing());
    steps.extend(extensions());
    steps
}

fn looking() -> Vec<(&'static str, Packet)> {
    let mut steps = Vec::new();
    for path in ["file", "link", "dir", "dangling", "loop", "file/x", "no", "setuid", "", "fifo"] {
        for (label, kind) in [("stat", 17), ("lstat", 7), ("readlink", 19)] {
            steps.push((label, by_path(kind, path.as_bytes())));
        }
    }
    for path in ["/", "/etc/../etc//passwd", "/no", "/no/no", "/etc/passwd/", "/no/", "/etc/."] {
        steps.push(("realpath", by_path(16, path.as_bytes())));
    }
    steps.push(("long name", by_path(17, &[b'x'; 300])));
    steps.push(("opendir of a file", by_path(11, b"file")));
    steps.push(("opendir of nothing", by_path(11, b"no")));
    steps.push(("readdir of no handle", by_handle(12, 9)));
    steps.push(("unknown handle form", Packet::new(12).u32(7).string(b"abc")));
    steps
}

fn files() -> Vec<(&'static str, Packet)> {
    let mode = |path: &[u8], flags: u32, mode: u32| by_path(3, path).u32(flags).u32(4).u32(mode);
    vec![
        ("open nothing", open(b"no", 1)),
        ("open through a file", open(b"file/x", 1)),
        ("open for reading", open(b"file", 1)),
        ("read all", read(0, 0, 100)),
        ("read a part", read(0, 3, 4)),
        ("read at the end", read(0, 10, 4)),
        ("read beyond", read(0, 1 << 40, 4)),
        ("read nothing", read(0, 0, 0)),
        ("read at a negative offset", read(0, u64::MAX, 4)),
        ("write where reading", write(0, 0, b"x")),
        ("fstat", by_handle(8, 0)),
        ("create", mode(b"new", 2 | 8 | 32, 0o100640)),
        ("create again", open(b"new", 2 | 8 | 32)),
        ("write", write(1, 0, b"hello")),
        ("write with a hole", write(1, 10, b"world")),
        ("write nothing", write(1, 0, b"")),
        ("read where writing", read(1, 0, 5)),
        ("fsetstat", by_handle(10, 1).u32(1 | 4 | 8).u64(12).u32(0o4711).u32(5).u32(6)),
        ("close", by_handle(4, 1)),
        ("close again", by_handle(4, 1)),
        ("read closed", read(1, 0, 1)),
        ("write closed", write(1, 0, b"x")),
        ("fstat closed", by_handle(8, 1)),
        ("fsetstat closed", by_handle(10, 1).u32(0)),
        ("look at it", by_path(7, b"new")),
        ("append", open(b"new", 2 | 4)),
        ("append at 0", write(1, 0, b"end")),
        ("close it", by_handle(4, 1)),
        ("truncate", open(b"new", 1 | 2 | 16)),
        ("read truncated", read(1, 0, 10)),
        ("a directory", open(b"dir", 1)),
        ("read a directory", read(2, 0, 10)),
        ("readdir on a file", by_handle(12, 0)),
        ("a directory for writing", open(b"dir", 2)),
        ("many flags", open(b"flags", 0x3f)),
    ]
}

fn changing() -> Vec<(&'static str, Packet)> {
    let rename = |from: &[u8], to: &[u8]| by_path(18, from).string(to);
    vec![
        ("mkdir", by_path(14, b"made").u32(4).u32(0o2750)),
        ("mkdir again", by_path(14, b"made").u32(0)),
        ("mkdir without mode", by_path(14, b"plain").u32(0)),
        ("look at it", by_path(17, b"made")),
        ("look at the other", by_path(17, b"plain")),
        ("rmdir of what is full", by_path(15, b"dir")),
        ("rmdir", by_path(15, b"plain")),
        ("rmdir of a file", by_path(15, b"file")),
        ("remove of a directory", by_path(13, b"made")),
        ("remove of nothing", by_path(13, b"no")),
        ("remove of a link", by_path(13, b"dangling")),
        ("rename onto a file", rename(b"file", b"setuid")),
        ("rename", rename(b"file", b"moved")),
        ("rename back", rename(b"moved", b"file")),
        ("rename of nothing", rename(b"no", b"no2")),
        ("rename of a directory", rename(b"made", b"made2")),
        ("rename onto a directory", rename(b"made2", b"dir")),
        ("rename of a link", rename(b"link", b"link2")),
        ("rename into itself", rename(b"dir", b"dir/sub/x")),
        ("symlink", by_path(20, b"any where").string(b"new link")),
        ("symlink again", by_path(20, b"any").string(b"new link")),
        ("read it", by_path(19, b"new link")),
        ("setstat", by_path(9, b"file").u32(0xf).u64(5).u32(1).u32(2).u32(0o4755).u32(3).u32(4)),
        ("look", by_path(17, b"file")),
        ("setstat of nothing", by_path(9, b"no").u32(4).u32(0o644)),
        ("setstat of a size too large", by_path(9, b"file").u32(1).u64(u64::MAX)),
        ("setstat size of a directory", by_path(9, b"dir").u32(1).u64(1)),
        ("setstat of the mode with more bits", by_path(9, b"file").u32(4).u32(0o177_777)),
        ("look again", by_path(17, b"file")),
    ]
}

fn extensions() -> Vec<(&'static str, Packet)> {
    let two = |name, from: &[u8], to: &[u8]| extended(name).string(from).string(to);
    let one = |name, path: &[u8]| extended(name).string(path);
    let lsetstat = |path: &[u8]| one("lsetstat@openssh.com", path);
    let mut steps = vec![
        ("posix-rename", two("posix-rename@openssh.com", b"made2", b"made3")),
        ("posix-rename onto", two("posix-rename@openssh.com", b"new", b"setuid")),
        ("posix-rename of nothing", two("posix-rename@openssh.com", b"no", b"x")),
        ("hardlink", two("hardlink@openssh.com", b"file", b"hard")),
        ("hardlink again", two("hardlink@openssh.com", b"file", b"hard")),
        ("look at it", by_path(17, b"hard")),
        ("fsync", extended("fsync@openssh.com").string(&at(0))),
        ("fsync of nothing", extended("fsync@openssh.com").string(&at(99))),
        ("lsetstat times", lsetstat(b"link2").u32(8).u32(7).u32(8)),
        ("lsetstat owner", lsetstat(b"link2").u32(2).u32(7).u32(8)),
        ("lsetstat size", lsetstat(b"link2").u32(1).u64(8)),
        ("lsetstat mode of a file", lsetstat(b"hard").u32(4).u32(0o600)),
        ("look at the link", by_path(7, b"link2")),
        ("statvfs", one("statvfs@openssh.com", b".")),
        ("statvfs of nothing", one("statvfs@openssh.com", b"no")),
        ("fstatvfs", extended("fstatvfs@openssh.com").string(&at(0))),
        ("fstatvfs of nothing", extended("fstatvfs@openssh.com").string(&at(99))),
        ("source", open(b"dir/other", 1)),
        ("sink", open(b"sink", 1 | 2 | 8)),
        ("copy", copy(4, 0, 0, 5, 2)),
        ("copy a part", copy(4, 1, 2, 5, 20)),
        ("copy more than there is", copy(4, 0, 100, 5, 0)),
        ("copy to itself", copy(5, 0, 1, 5, 50)),
        ("copy from nothing", copy(99, 0, 1, 5, 50)),
        ("what came of it", read(5, 0, 100)),
        ("unknown extension", extended("no@such")),
    ];
    // OpenSSH 9.2 answers every other user with root's.
    for user in ["root", "no-such-user"] {
        steps.push(("home-directory", one("home-directory", user.as_bytes())));
    }
    for path in ["~", "~/", "~/x", "~root", "~root/x", "~daemon/", "/etc/../etc", "~no-such-user"] {
        steps.push(("expand-path", one("expand-path@openssh.com", path.as_bytes())));
    }
    let ids = [0u32, 1, 4_000_000_000].map(u32::to_be_bytes).concat();
    steps.push(("names", two("users-groups-by-id@openssh.com", &ids, &ids[..8])));
    steps
}

/// Takes out of an answer what differs between two runs: times of now, free blocks.
fn normal(mut answer: Vec<u8>) -> Vec<u8> {
    let attrs_of_now = |bytes: &mut [u8]| {
        for field in bytes.chunks_mut(4) {
            let value = u32::from_be_bytes(field.try_into().unwrap());
            if value > 1_700_000_000 {
                field.fill(0);
            }
        }
    };
    match answer.first() {
        // ATTRS: the two times are its end.
        Some(105) => {
            let times = answer.len() - 8;
            attrs_of_now(&mut answer[times..]);
        }
        // A statvfs reply: blocks and files free.
        Some(201) if answer.len() == 5 + 88 => {
            for field in [3, 4, 6, 7] {
                answer[5 + field * 8..][..8].fill(0);
            }
        }
        _ => {}
    }
    answer
}

#[test]
fn answers_are_those_of_openssh() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let [ours, theirs] = ["a", "b"].map(|name| dir.path().join(name));
    tree(&ours);
    tree(&theirs);
    let mut our_peer = Peer::start(&mut Command::new(OURS), &ours);
    let mut their_peer = Peer::start(&mut Command::new(OPENSSH), &theirs);
    let mut different = Vec::new();
    for (label, packet) in conversation() {
        let bytes = packet.finish();
        let answers = [&mut our_peer, &mut their_peer].map(|peer| {
            peer.input.as_mut().unwrap().write_all(&bytes).unwrap();
            normal(peer.receive())
        });
        let [our, their] = answers;
        let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
        // The names of the two trees differ in one letter.
        let place = |path: &Path| path.to_str().unwrap().to_owned();
        if shown(&our).replace(&place(&ours), &place(&theirs)) != shown(&their) {
            let asked = shown(&bytes[9..]);
            different.push(format!("{label} {asked}\n  {}\n  {}", shown(&our), shown(&their)));
        }
    }
    assert!(different.is_empty(), "ours, then OpenSSH's:\n{}", different.join("\n"));
    assert!(our_peer.end().success());
    their_peer.end();
}

/// All names and long names of a directory, in order of name.
fn list(peer: &mut Peer, path: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let handle = peer.ask(by_path(11, path));
    assert_eq!(handle[0], 102);
    let mut found = Vec::new();
    loop {
        let answer = peer.ask(by_handle(12, 0));
        if answer[0] != 104 {
            assert_eq!(answer[..9], [101, 0, 0, 0, 7, 0, 0, 0, 1], "end of file");
            break;
        }
        let mut fields = Fields::new(bytes::Bytes::from(answer).slice(5..));
        for _ in 0..fields.u32().unwrap() {
            let name = (fields.string().unwrap().to_vec(), fields.string().unwrap().to_vec());
            Attrs::read(&mut fields).unwrap();
            found.push(name);
        }
    }
    peer.ask(by_handle(4, 0));
    found.sort();
    found
}

#[test]
fn listings_are_those_of_openssh() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    tree(dir.path());
    let mut ours = Peer::ours(dir.path());
    let mut theirs = Peer::start(&mut Command::new(OPENSSH), dir.path());
    theirs.ask(Packet::new(1).u32(3));
    for path in [&b"."[..], b"dir/sub", b"/dev", b"/etc"] {
        let shown = |(name, line): (Vec<u8>, Vec<u8>)| {
            format!("{} {}", name.escape_ascii(), line.escape_ascii())
        };
        let our: Vec<_> = list(&mut ours, path).into_iter().map(shown).collect();
        let their: Vec<_> = list(&mut theirs, path).into_iter().map(shown).collect();
        assert_eq!(our, their);
    }
    ours.end();
    theirs.end();
}

#[test]
fn pipelined_requests_come_out_as_if_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut peer = Peer::ours(dir.path());
    peer.send(open(b"x", 1 | 2 | 8));
    // Nobody waits for an answer: overlapping writes, a read of what they wrote, the close after.
    const ROUNDS: u64 = 500;
    for round in 0..ROUNDS {
        peer.send(write(0, round, &[round as u8; 300]));
    }
    peer.send(read(0, 0, 1 << 20));
    peer.send(by_handle(4, 0));
    peer.send(by_path(7, b"x"));
    let mut answers: Vec<_> = (0..ROUNDS + 4).map(|_| peer.receive()).collect();
    assert_eq!(
        answers.pop().unwrap()[..17],
        [105, 0, 0, 0, 7, 0, 0, 0, 15, 0, 0, 0, 0, 0, 0, 3, 31]
    );
    assert_eq!(answers.pop().unwrap()[..9], [101, 0, 0, 0, 7, 0, 0, 0, 0]);
    let data = answers.iter().find(|answer| answer[0] == 103).unwrap();
    let expected: Vec<u8> = (0..ROUNDS + 299).map(|at| at.min(ROUNDS - 1) as u8).collect();
    assert_eq!(data[9..], expected);
    assert!(peer.end().success());
}

#[test]
fn what_cannot_be_answered_ends_the_session_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    for bytes in [&b"\xff\xff\xff\xff\x05"[..], b"\0\x04\0\x01\x05", b"\0\0\0\x01\x05", b"\0\0\0\0"]
    {
        let mut peer = Peer::ours(dir.path());
        peer.input.as_mut().unwrap().write_all(bytes).unwrap();
        assert_eq!(peer.receive(), b"", "{bytes:?}");
        assert_eq!(peer.end().code(), Some(1));
    }
    let mut peer = Peer::ours(dir.path());
    // A string longer than its packet; then the session continues.
    assert_eq!(peer.ask(Packet::new(17).u32(7).u32(1000))[..9], [101, 0, 0, 0, 7, 0, 0, 0, 5]);
    assert_eq!(peer.ask(by_path(99, b""))[..9], [101, 0, 0, 0, 7, 0, 0, 0, 8]);
    assert_eq!(peer.ask(by_path(17, b"."))[0], 105);
    assert!(peer.end().success());
}
