//! What sessions serve themselves.

use std::io::{BufRead, BufReader};

use super::*;

/// Starts servers in a session: `greet` on TCP and UDP, on the address that is given. Gives the port once
/// they listen; they end with the jail.
fn serve_in(jail: &Jail, family: &str, address: &str) -> (Child, u16, File) {
    let (child, mut stdin, stdout, _) = spawn(jail, Program::Command(b"exec python3 -u -".into()));
    let script = format!(
        r#"
import socket, threading
s = socket.socket(socket.{family}, socket.SOCK_STREAM)
s.bind(('{address}', 0))
s.listen()
port = s.getsockname()[1]
d = socket.socket(socket.{family}, socket.SOCK_DGRAM)
d.bind(('{address}', port))
def datagrams():
    while True:
        d.sendto(b'own', d.recvfrom(9)[1])
threading.Thread(target=datagrams, daemon=True).start()
print(port)
while True:
    c, _ = s.accept()
    c.sendall(b'own')
    c.close()
"#
    );
    stdin.write_all(script.as_bytes()).unwrap();
    drop(stdin);
    let mut line = String::new();
    let mut stdout = BufReader::new(stdout);
    stdout.read_line(&mut line).unwrap();
    (child, line.trim().parse().expect("a port"), stdout.into_inner())
}

#[test]
fn what_sessions_serve_themselves_is_reached_by_all_sessions_of_the_job_and_by_nobody_else() {
    let filter = filter(&[]);
    let (image, jails) = both(&filter, CapSet::EMPTY);
    let other = super::filter(&[]);
    let stranger = establish(Options { filter: Some(other.clone()), ..Options::default() });
    for (family, address, to) in [
        ("AF_INET", "127.0.0.1", "127.0.0.1"),
        ("AF_INET", "0.0.0.0", "127.0.0.1"),
        ("AF_INET", "127.0.0.1", "0.0.0.0"),
        ("AF_INET6", "::1", "::1"),
        ("AF_INET6", "::", "::1"),
        ("AF_INET6", "::", "::ffff:127.0.0.1"),
    ] {
        let (_child, port, _stdout) = serve_in(&jails[0], family, address);
        let script = format!(
            "{REACH}\nfor _ in range(50):\n  assert tcp(socket.{family}, ('{to}', {port})) == b'own'\n\
             print(reach(lambda: tcp(socket.{family}, ('{to}', {port}))))\n\
             for how in 'to', 'connect':\n  print(reach(lambda: udp(socket.{family}, ('{to}', {port}), how)))"
        );
        for jail in &jails {
            assert_eq!(python(jail, &script), ["b'own'"; 3], "{address} as {to}");
        }
        let script = script.replace("assert", "0 and");
        let refused = python(&stranger, &script.replace("range(50)", "range(0)"));
        let expected = ["ECONNREFUSED", "EPERM", "EPERM"];
        assert_eq!(refused, expected, "{address} as {to}: another job");
        // A program of the host finds nobody who speaks for one of its services.
        let host: SocketAddr = match family {
            "AF_INET" => (Ipv4Addr::LOCALHOST, port).into(),
            _ => (Ipv6Addr::LOCALHOST, port).into(),
        };
        let refused = std::net::TcpStream::connect_timeout(&host, Duration::from_millis(300));
        assert!(refused.is_err(), "{address} as {host}: the host");
    }
    stranger.close(Duration::ZERO);
    other.remove().unwrap();
    close(image, jails, &filter);
}

#[test]
fn a_port_that_was_the_sessions_is_not_when_a_service_of_the_host_has_it() {
    let filter = filter(&[]);
    let jail = establish(Options { filter: Some(filter.clone()), ..Options::default() });
    // A server of its own that it connects to and closes, and a port that it holds without listening.
    let script = r#"
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 0))
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.connect(server.getsockname())
client.send(b"own")
assert server.recv(9) == b"own"
held = socket.socket()
held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
held.bind(("127.0.0.1", 0))
print(server.getsockname()[1], held.getsockname()[1])
server.close()
print("closed")
input()
for act in (lambda: client.send(b"x"), lambda: socket.create_connection(held.getsockname(), 5)):
    try:
        print("got", act())
    except OSError as error:
        print(type(error).__name__)
"#;
    let command = format!("exec python3 -u -c '{script}'").into_bytes();
    let (mut child, mut stdin, stdout, _stderr) = spawn(&jail, Program::Command(command));
    let mut lines = BufReader::new(stdout).lines().map(Result::unwrap);
    let ports: Vec<u16> =
        lines.next().unwrap().split(' ').map(|port| port.parse().unwrap()).collect();
    assert_eq!(lines.next().unwrap(), "closed");
    let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, ports[0])).unwrap();
    let service = TcpListener::bind((Ipv4Addr::LOCALHOST, ports[1])).unwrap();
    stdin.write_all(b"\n").unwrap();
    assert_eq!(lines.collect::<Vec<_>>(), ["PermissionError", "ConnectionRefusedError"]);
    assert!(wait(&mut child).success());
    datagrams.set_nonblocking(true).unwrap();
    service.set_nonblocking(true).unwrap();
    let nothing = std::io::ErrorKind::WouldBlock;
    assert_eq!(datagrams.recv_from(&mut [0; 9]).unwrap_err().kind(), nothing);
    assert_eq!(service.accept().unwrap_err().kind(), nothing);
    jail.close(Duration::ZERO);
    filter.remove().unwrap();
}
