//! Random requests, the same to our server and to OpenSSH's, on copies of one tree: every answer and
//! the trees at the end are the same.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

/// What differs between two sessions however alike they are: times, and what is found in a directory
/// that changes while it is read. (Listings are compared in a test of their own.)
fn comparable(asked: &[u8], answer: Vec<u8>) -> Vec<u8> {
    const READDIR: u8 = 12;
    let listing = matches!(answer.as_slice(), [104, ..] | [101, _, _, _, _, 0, 0, 0, 1, ..]);
    match asked[4] == READDIR && listing {
        true => b"names or none".to_vec(),
        false => normal(answer),
    }
}

struct Dice(StdRng);

impl Dice {
    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.0.random_range(0..of.len())]
    }

    fn path(&mut self) -> &'static [u8] {
        self.one(&[
            "file",
            "dir",
            "dir/other",
            "setuid",
            "link",
            "dangling",
            "loop",
            "a",
            "b",
            "dir/c",
            "a/d",
            "a/../b",
            "b/",
            "no/such",
            "dir/sub/7",
            "link/x",
            ".",
            "a b\u{e4}",
        ])
        .as_bytes()
    }

    /// Small, so that sequences meet; sometimes of no handle.
    fn handle(&mut self) -> u32 {
        self.0.random_range(0..4)
    }

    fn offset(&mut self) -> u64 {
        self.0.random_range(0..64)
    }

    fn attrs(&mut self, packet: Packet) -> Packet {
        match self.0.random_range(0..5) {
            0 => packet.u32(1).u64(self.offset()),
            1 => packet.u32(2).u32(self.handle()).u32(self.handle()),
            2 => packet.u32(4).u32(self.0.random_range(0..0o10000)),
            3 => packet.u32(8).u32(self.handle()).u32(self.handle()),
            _ => packet.u32(0),
        }
    }

    fn request(&mut self) -> Packet {
        let (path, other, handle) = (self.path(), self.path(), self.handle());
        match self.0.random_range(0..26) {
            0..3 => {
                let packet = by_path(3, path).u32(self.0.random_range(0..64));
                self.attrs(packet)
            }
            3..5 => by_handle(4, handle),
            5..7 => read(handle, self.offset(), self.0.random_range(0..100)),
            7..9 => {
                let data = vec![b'x'; self.0.random_range(0..50)];
                write(handle, self.offset(), &data)
            }
            9 => by_path(7, path),
            10 => by_handle(8, handle),
            11 => self.attrs(by_path(9, path)),
            12 => self.attrs(by_handle(10, handle)),
            13 => by_path(11, path),
            14 => by_handle(12, handle),
            15 => by_path(13, path),
            16 => self.attrs(by_path(14, path)),
            17 => by_path(15, path),
            18 => by_path(16, path),
            19 => by_path(17, path),
            20 => by_path(18, path).string(other),
            21 => by_path(19, path),
            22 => by_path(20, other).string(path),
            23 => extended("posix-rename@openssh.com").string(path).string(other),
            24 => extended("hardlink@openssh.com").string(path).string(other),
            _ => {
                let packet = extended("lsetstat@openssh.com").string(path);
                self.attrs(packet)
            }
        }
    }
}

/// What went otherwise first, after which requests.
fn conversation_by(seed: u64, length: usize) -> Result<(), String> {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let [ours, theirs] = ["a", "b"].map(|name| dir.path().join(name));
    tree(&ours);
    tree(&theirs);
    for place in [&ours, &theirs] {
        // Opening one waits for ever, in both servers.
        fs::remove_file(place.join("fifo")).unwrap();
    }
    let mut our_peer = Peer::start(&mut Command::new(OURS), &ours);
    let mut their_peer = Peer::start(&mut Command::new(OPENSSH), &theirs);
    for peer in [&mut our_peer, &mut their_peer] {
        peer.ask(Packet::new(1).u32(3));
    }
    let mut dice = Dice(StdRng::seed_from_u64(seed));
    let mut asked = Vec::new();
    for step in 0..length {
        let bytes = dice.request().finish();
        asked.push(bytes[4..].escape_ascii().to_string());
        let answers = [&mut our_peer, &mut their_peer].map(|peer| {
            peer.input.as_mut().unwrap().write_all(&bytes).unwrap();
            comparable(&bytes, peer.receive()).escape_ascii().to_string()
        });
        let [our, their] = answers;
        let our = our.replace(ours.to_str().unwrap(), theirs.to_str().unwrap());
        if our != their {
            let before = asked[asked.len().saturating_sub(40)..].join("\n");
            return Err(format!(
                "seed {seed}, step {step}, after\n{before}\nours:   {our}\ntheirs: {their}"
            ));
        }
    }
    assert!(our_peer.end().success());
    their_peer.end();
    let diff =
        Command::new("diff").args(["-r", "--no-dereference"]).args([&ours, &theirs]).output();
    let diff = diff.unwrap();
    match diff.status.success() {
        true => Ok(()),
        false => Err(format!("seed {seed}: {}", String::from_utf8_lossy(&diff.stdout))),
    }
}

#[test]
fn random_requests_are_answered_as_by_openssh() {
    let different = (0..20).filter_map(|seed| conversation_by(seed, 400).err());
    let different: Vec<String> = different.collect();
    assert!(different.is_empty(), "{}", different.join("\n\n"));
}

#[test]
#[ignore = "for hours by hand: cargo test -p sftp-server -- --ignored --nocapture more_random_requests"]
fn more_random_requests() {
    for seed in 1000.. {
        conversation_by(seed, 2000).unwrap();
    }
}
