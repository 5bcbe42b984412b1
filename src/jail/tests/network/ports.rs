//! Ports that are the host's.

use super::*;
use linux::testing::reusable_udp;

#[test]
fn a_port_of_the_host_cannot_be_shared_or_taken() {
    let services = Services::start(&LOOPBACK);
    let standalone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let filter = filter(&[standalone]);
    let (image, jails) = both(&filter, CapSet::EMPTY);
    // As resolvers and media servers do.
    let shared = UdpSocket::from(reusable_udp().unwrap());
    let shared_port = shared.local_addr().unwrap().port();
    let script = format!(
        r#"
{REACH}
def bound(kind, ip, port, *options):
    s = socket.socket(v6 if ':' in ip else v4, kind)
    for option in options:
        s.setsockopt(socket.SOL_SOCKET, option, 1)
    s.bind((ip, port))
    return 'bound'
stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
print('reuseport', reach(lambda: bound(stream, '127.0.0.1', {port}, socket.SO_REUSEPORT)))
for ip in '127.0.0.1', '0.0.0.0', '::1', '::', '::ffff:127.0.0.1':
    print('tcp', ip, reach(lambda: bound(stream, ip, {port}, socket.SO_REUSEADDR)))
for ip in '127.0.0.1', '0.0.0.0', '::ffff:127.0.0.1':
    print('udp', ip, reach(lambda: bound(datagram, ip, {shared_port}, socket.SO_REUSEADDR)))
for ip in '127.0.0.1', '0.0.0.0', '::', '127.0.0.2':
    print('standalone', ip, reach(lambda: bound(stream, ip, {standalone})))
print('large option', reach(lambda: socket.socket(v4, datagram).setsockopt(0, 41, b'x' * 9000)))
print('own', reach(lambda: bound(stream, '127.0.0.1', 0, socket.SO_REUSEADDR)))
"#,
        port = services.port,
    );
    for jail in &jails {
        let mut lines = python(jail, &script);
        assert_eq!(lines.pop().unwrap(), "own bound");
        // The kernel does not like it, and not the filter.
        assert_eq!(lines.pop().unwrap(), "large option ENOBUFS");
        assert_eq!(lines.remove(0), "reuseport EPERM");
        for line in lines {
            assert!(line.ends_with("EADDRINUSE") || line.ends_with("EPERM"), "{line}");
        }
    }
    drop((services, shared));
    close(image, jails, &filter);
}
