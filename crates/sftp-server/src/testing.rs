//! A client over any pair of pipes.

use std::fs::File;
use std::io::{Read, Write};

use crate::codec::Packet;

/// Asks one thing at a time; panics where the server does not answer.
pub struct Client {
    input: File,
    output: File,
}

impl Client {
    /// `input` is the server's input.
    pub fn new(input: File, output: File) -> Client {
        let mut client = Client { input, output };
        client.ask(Packet::new(1).u32(3));
        client
    }

    fn ask(&mut self, packet: Packet) -> Vec<u8> {
        self.input.write_all(&packet.finish()).unwrap();
        let mut length = [0; 4];
        self.output.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        self.output.read_exact(&mut answer).unwrap();
        answer
    }

    /// The attributes, or nothing if there is no such file.
    pub fn stat(&mut self, path: &str) -> Option<Vec<u8>> {
        let answer = self.ask(Packet::new(17).u32(7).string(path.as_bytes()));
        (answer[0] == 105).then_some(answer)
    }

    /// Makes a symbolic link.
    pub fn symlink(&mut self, target: &str, link: &str) {
        let request = Packet::new(20).u32(7).string(target.as_bytes()).string(link.as_bytes());
        assert_eq!(self.ask(request)[8], 0, "made");
    }
}
