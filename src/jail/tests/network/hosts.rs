//! The way out: other hosts, public services of this one, name servers.

use std::io::{BufRead, BufReader};

use super::*;

/// Another host: a network namespace at the end of a pair of virtual interfaces, with services in it. Its
/// address is not one of ours.
struct OtherHost {
    name: String,
    near: Ipv4Addr,
    far: Ipv4Addr,
    server: std::process::Child,
}

impl OtherHost {
    const PORT: u16 = 8080;

    fn start(number: u8) -> OtherHost {
        let name = format!("ims{}{number}", std::process::id());
        let (near, far) = (Ipv4Addr::new(198, 18, number, 1), Ipv4Addr::new(198, 18, number, 2));
        let ip = |arguments: &str| {
            let status = Command::new("ip").args(arguments.split_whitespace()).status();
            assert!(status.unwrap().success(), "ip {arguments}");
        };
        ip(&format!("netns add {name}"));
        ip(&format!("link add {name}a type veth peer name {name}b netns {name}"));
        ip(&format!("address add {near}/30 dev {name}a"));
        ip(&format!("link set {name}a up"));
        ip(&format!("-n {name} address add {far}/30 dev {name}b"));
        ip(&format!("-n {name} link set {name}b up"));
        let script = format!(
            "import socket, threading\n\
             s = socket.create_server(('{far}', {port}))\n\
             d = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
             d.bind(('{far}', {port}))\n\
             def datagrams():\n  while True:\n    d.sendto(b'other', d.recvfrom(9)[1])\n\
             threading.Thread(target=datagrams, daemon=True).start()\n\
             print('ready', flush=True)\n\
             while True:\n  c, _ = s.accept()\n  c.sendall(b'other')\n  c.close()\n",
            port = Self::PORT
        );
        let mut server = Command::new("ip")
            .args(["netns", "exec", &name, "python3", "-c", &script])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        OtherHost { name, near, far, server }
    }
}

impl Drop for OtherHost {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

#[test]
fn other_hosts_are_reached_and_public_services_of_this_one_but_for_standalones_own() {
    let other = OtherHost::start(1);
    let public = TcpListener::bind((other.near, 0)).unwrap();
    let refused = TcpListener::bind("0.0.0.0:0").unwrap();
    let ports = [&public, &refused].map(|listener| listener.local_addr().unwrap().port());
    let threads = [public, refused].map(|listener| {
        std::thread::spawn(move || {
            // The one that nobody may reach waits for the end of the test.
            if let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.write_all(b"public");
            }
        })
    });
    let filter = filter(&[ports[1], OtherHost::PORT]);
    let (image, jails) = both(&filter, CapSet::EMPTY);
    let (far, near, port) = (other.far, other.near, OtherHost::PORT);
    let reach_other = format!(
        "{REACH}\nprint(reach(lambda: tcp(v4, ('{far}', {port}))))\n\
         print(reach(lambda: tcp(v6, ('::ffff:{far}', {port}))))\n\
         for how in 'to', 'msg', 'connect':\n  print(reach(lambda: udp(v4, ('{far}', {port}), how)))"
    );
    for jail in &jails {
        assert_eq!(python(jail, &reach_other), ["b'other'"; 5]);
        let script = format!(
            "{REACH}\nfor ip in '{near}', '127.0.0.1':\n  print(reach(lambda: tcp(v4, (ip, {}))))\n\
             print(reach(lambda: tcp(v6, ('::ffff:{near}', {}))))",
            ports[1], ports[1]
        );
        assert_eq!(python(jail, &script), ["ECONNREFUSED"; 3], "{near}");
    }
    let script = format!("{REACH}\nprint(reach(lambda: tcp(v4, ('{near}', {}))))", ports[0]);
    assert_eq!(python(&jails[0], &script), ["b'public'"]);
    drop(std::net::TcpStream::connect((near, ports[1])).unwrap());
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    close(image, jails, &filter);
}

#[test]
fn names_are_looked_up_where_resolv_conf_says_and_nothing_else_is_asked_there() {
    let resolver = IpAddr::from(Ipv4Addr::new(127, 0, 77, std::process::id() as u8 | 1));
    let (udp, tcp) = (UdpSocket::bind((resolver, 53)).unwrap(), TcpListener::bind((resolver, 53)));
    let (tcp, beside) = (tcp.unwrap(), TcpListener::bind((resolver, 54)).unwrap());
    let answering = udp.try_clone().unwrap();
    let datagrams = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        for _ in 0..4 {
            let (_, from) = answering.recv_from(&mut buffer).unwrap();
            answering.send_to(b"name", from).unwrap();
        }
    });
    let streams = std::thread::spawn(move || {
        for _ in 0..2 {
            tcp.accept().unwrap().0.write_all(b"name").unwrap();
        }
    });
    let rules = Rules::new(Vec::new(), &format!("nameserver {resolver}\n")).unwrap();
    let filter = Filter::make(&rules).unwrap();
    let (image, jails) = both(&filter, CapSet::EMPTY);
    let script = format!(
        "{REACH}\nprint(reach(lambda: tcp(v4, ('{resolver}', 53))))\n\
         for how in 'to', 'connect':\n  print(reach(lambda: udp(v4, ('{resolver}', 53), how)))\n\
         print(reach(lambda: tcp(v4, ('{resolver}', 54))))\n\
         print(reach(lambda: tcp(v4, ('127.0.0.1', 53))))"
    );
    for jail in &jails {
        let expected = ["b'name'", "b'name'", "b'name'", "ECONNREFUSED", "ECONNREFUSED"];
        assert_eq!(python(jail, &script), expected);
    }
    datagrams.join().unwrap();
    streams.join().unwrap();
    drop(beside);
    close(image, jails, &filter);
}
