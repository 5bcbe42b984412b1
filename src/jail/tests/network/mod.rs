//! Sessions that share the network with a host: tests what they can reach.

mod hosts;
mod own;
mod ports;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::escape::{HostImage, python};
use super::*;
use crate::jail::network::{Filter, Rules};

const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Services of this host on loopback: each says `host` to whoever connects, or sends a datagram.
struct Services {
    port: u16,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Services {
    /// On a free port, the same of all the addresses, over TCP and UDP.
    fn start(addresses: &[IpAddr]) -> Services {
        let stop = Arc::new(AtomicBool::new(false));
        let (port, tcp, udp) = loop {
            let port = rand::random_range(20_000..30_000);
            let tcp: std::io::Result<Vec<_>> =
                addresses.iter().map(|ip| TcpListener::bind((*ip, port))).collect();
            let udp: std::io::Result<Vec<_>> =
                addresses.iter().map(|ip| UdpSocket::bind((*ip, port))).collect();
            if let (Ok(tcp), Ok(udp)) = (tcp, udp) {
                break (port, tcp, udp);
            }
        };
        let mut threads = Vec::new();
        for listener in tcp {
            let stop = stop.clone();
            threads.push(std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let _ = stream.and_then(|mut stream| stream.write_all(b"host"));
                }
            }));
        }
        for socket in udp {
            let stop = stop.clone();
            threads.push(std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let _ = socket.send_to(b"host", from);
                }
            }));
        }
        Services { port, stop, threads }
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for ip in LOOPBACK {
            let address = SocketAddr::new(ip, self.port);
            let _ = std::net::TcpStream::connect(address);
            let any = if ip.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
            let _ = UdpSocket::bind(any).and_then(|socket| socket.send_to(b"end", address));
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn filter(refused: &[u16]) -> Filter {
    Filter::make(&Rules::of_this_host(refused.to_vec()).unwrap()).unwrap()
}

/// A jail of each kind: in an image, and in this machine's own tree.
fn both(filter: &Filter, more: CapSet) -> (HostImage, Vec<Jail>) {
    let image = HostImage::new();
    let options = Options { filter: Some(filter.clone()), more, ..Options::default() };
    let jailed = establish(Options { root: Some(image.root()), ..options.clone() });
    (image, vec![jailed, establish(options)])
}

fn close(image: HostImage, jails: Vec<Jail>, filter: &Filter) {
    for jail in jails {
        jail.close(Duration::ZERO);
    }
    filter.remove().unwrap();
    image.unmount();
}

/// `reach` tries to have an answer of a service; what became of it is printed.
const REACH: &str = r#"
def tcp(family, address, protocol=0):
    s = socket.socket(family, socket.SOCK_STREAM, protocol)
    s.settimeout(5)
    s.connect(address)
    return s.recv(9)
def udp(family, address, how='to'):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(5)
    if how == 'connect':
        s.connect(address)
        s.send(b'x')
    elif how == 'msg':
        s.sendmsg([b'x'], [], 0, address)
    else:
        s.sendto(b'x', address)
    return s.recv(9)
def reach(act):
    try:
        return act()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
v4, v6 = socket.AF_INET, socket.AF_INET6
"#;

#[test]
fn no_way_leads_to_a_service_on_loopback() {
    no_way_to(
        Services::start(&LOOPBACK),
        "'127.0.0.1', '0.0.0.0', '::1', '::', '::ffff:127.0.0.1'",
    );
}

#[test]
fn a_service_on_every_address_is_not_reached_over_loopback_either() {
    let all = "'127.0.0.1', '127.255.255.254', '0.0.0.0', '::1', '::', '::ffff:127.9.9.9'";
    no_way_to(Services::start(&[Ipv6Addr::UNSPECIFIED.into()]), all);
}

/// Datagrams are sent to where somebody would answer: elsewhere they are lost, as they would be anyway.
fn no_way_to(services: Services, datagrams_to: &str) {
    let filter = filter(&[]);
    let (image, jails) = both(&filter, CapSet::EMPTY);
    let script = format!(
        r#"
{REACH}
port = {port}
for ip in '127.0.0.1', '127.0.0.2', '127.255.255.254', '0.0.0.0', 'localhost':
    print('tcp', ip, reach(lambda: tcp(v4, (ip, port))))
for ip in '::1', '::', '::ffff:127.0.0.1', '::ffff:127.9.9.9', '::ffff:0.0.0.0':
    print('tcp', ip, reach(lambda: tcp(v6, (ip, port))))
for ip in {datagrams_to}:
    for how in 'to', 'msg', 'connect':
        print('udp', how, ip, reach(lambda: udp(v6 if ':' in ip else v4, (ip, port), how)))
def fast_open():
    s = socket.socket(v4, socket.SOCK_STREAM)
    s.settimeout(5)
    s.sendto(b'x', socket.MSG_FASTOPEN, ('127.0.0.1', port))
    return s.recv(9)
print('fast open', reach(fast_open))
def from_elsewhere():
    # Bound to another loopback address, the unspecified one means that.
    s = socket.socket(v4, socket.SOCK_STREAM)
    s.bind(('127.0.0.1', 0))
    s.settimeout(5)
    s.connect(('0.0.0.0', port))
    return s.recv(9)
print('bound', reach(from_elsewhere))
def many():
    class iovec(ctypes.Structure):
        _fields_ = [('base', ctypes.c_char_p), ('len', ctypes.c_size_t)]
    class msghdr(ctypes.Structure):
        _fields_ = [('name', ctypes.c_void_p), ('namelen', ctypes.c_uint), ('iov', ctypes.POINTER(iovec)),
            ('iovlen', ctypes.c_size_t), ('control', ctypes.c_void_p), ('controllen', ctypes.c_size_t),
            ('flags', ctypes.c_int)]
    class mmsghdr(ctypes.Structure):
        _fields_ = [('hdr', msghdr), ('len', ctypes.c_uint)]
    s = socket.socket(v4, socket.SOCK_DGRAM)
    s.settimeout(5)
    name = ctypes.create_string_buffer(b'\x02\0' + port.to_bytes(2, 'big') + b'\x7f\0\0\1' + b'\0' * 8, 16)
    part = iovec(b'x', 1)
    message = mmsghdr(msghdr(ctypes.cast(name, ctypes.c_void_p), 16, ctypes.pointer(part), 1))
    if libc.sendmmsg(s.fileno(), ctypes.byref(message), 1, 0) < 0:
        raise OSError(ctypes.get_errno(), 'refused')
    return s.recv(9)
print('many', reach(many))
IPPROTO_MPTCP, IPPROTO_SCTP, IPPROTO_UDPLITE, DCCP = 262, 132, 136, 33
for name, kind, protocol in (('mptcp', socket.SOCK_STREAM, IPPROTO_MPTCP), ('sctp', socket.SOCK_STREAM, IPPROTO_SCTP),
        ('sctp packets', socket.SOCK_SEQPACKET, IPPROTO_SCTP), ('udplite', socket.SOCK_DGRAM, IPPROTO_UDPLITE),
        ('dccp', 6, DCCP)):
    for family in v4, v6:
        print(name, reach(lambda: socket.socket(family, kind, protocol).connect(('127.0.0.1', port))))
print('smc', reach(lambda: tcp(43, ('127.0.0.1', port))))
"#,
        port = services.port
    );
    for jail in &jails {
        let lines = python(jail, &script);
        assert!(lines.len() > 35, "{lines:?}");
        let refused = ["ECONNREFUSED", "EPERM", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT"];
        // One that the kernel lacks, or that Python has no addresses for.
        let no_such = |line: &str| line.starts_with("smc ") && !line.contains("host");
        for line in &lines {
            assert!(no_such(line) || refused.iter().any(|end| line.ends_with(end)), "{line}");
        }
    }
    // Seen from outside it is there.
    let mut greeting = String::new();
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", services.port)).unwrap();
    stream.read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "host");
    drop(services);
    close(image, jails, &filter);
}

#[test]
fn nobody_listens_to_what_others_say_unless_it_was_asked_for() {
    let script = r#"
attempt('packet', lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300) and 'a socket')
attempt('raw', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) and 'a socket')
attempt('raw tcp', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) and 'a socket')
"#;
    let filter = filter(&[]);
    let (image, jails) = both(&filter, CapSet::EMPTY);
    for jail in &jails {
        assert_eq!(python(jail, script), ["packet EAFNOSUPPORT", "raw EPERM", "raw tcp EPERM"]);
    }
    close(image, jails, &filter);
    for filter in [None, Some(self::filter(&[]))] {
        let jail = establish(Options {
            filter: filter.clone(),
            more: CapSet::NET_RAW,
            ..Options::default()
        });
        assert!(python(&jail, script)[1..].iter().all(|line| line.ends_with("a socket")));
        jail.close(Duration::ZERO);
        filter.inspect(|filter| filter.remove().unwrap());
    }
}

/// A user who may mount sees no group but the own one, and nobody else sees any.
#[test]
fn the_control_group_cannot_be_left() {
    let services = Services::start(&LOOPBACK);
    let filter = filter(&[]);
    let image = HostImage::new();
    let options = Options { filter: Some(filter.clone()), ..Options::default() };
    let jailed = Options { root: Some(image.root()), ..options.clone() };
    let groups = format!("/tmp/ims-groups-{}", std::process::id());
    let nothing = "[]".to_owned();
    let mounted = format!("['{groups}']");
    let script = format!(
        r#"
{REACH}
print(open('/proc/self/cgroup').read().split('0::')[1].split()[0])
print([line for line in open('/proc/self/mountinfo') if ' - cgroup2 ' in line])
os.makedirs('{groups}', exist_ok=True)
libc.mount(b'none', b'{groups}', b'cgroup2', 0, None)
left = []
for top in '{groups}', '/sys/fs/cgroup', '/sys/fs/cgroup/unified', '/proc/1/root/sys/fs/cgroup':
    for path, _, files in os.walk(top):
        if 'cgroup.procs' in files and 'cgroup.controllers' in files:
            try:
                open(path + '/cgroup.procs', 'w').write(str(os.getpid()))
                left.append(path)
            except OSError:
                pass
print(left[:1])
if left:
    os.makedirs('{groups}/inner', exist_ok=True)
    open('{groups}/inner/cgroup.procs', 'w').write(str(os.getpid()))
print(reach(lambda: tcp(v4, ('127.0.0.1', {port}))))
print(reach(lambda: udp(v4, ('127.0.0.1', {port}))))
"#,
        port = services.port
    );
    for (options, own) in [
        (options.clone(), &nothing),
        (jailed.clone(), &nothing),
        (Options { dkms: true, ..options }, &mounted),
        (Options { dkms: true, ..jailed }, &mounted),
    ] {
        let jail = establish(options);
        assert_eq!(python(&jail, &script), ["/", "[]", own, "ECONNREFUSED", "EPERM"], "{jail:?}");
        jail.close(Duration::ZERO);
    }
    let _ = fs::remove_dir(groups);
    filter.remove().unwrap();
    image.unmount();
}

#[test]
fn a_filter_that_cannot_be_had_lets_nobody_in() {
    let filter = filter(&[]);
    let options = Options { filter: Some(filter.clone()), ..Options::default() };
    let refused = Plan::new(options, CapSet::SYS_CHROOT).unwrap_err();
    assert!(refused.to_string().contains("--session-network host"), "{refused}");
    filter.remove().unwrap();
    // The group is gone: init cannot be put into it.
    let options = Options { filter: Some(filter), ..Options::default() };
    let plan = Plan::new(options, CapSet::effective().unwrap()).unwrap();
    let error = Jail::establish(plan).unwrap_err();
    assert!(matches!(error, Error::SetUp { .. }), "{error}");
    let unprivileged = std::thread::spawn(|| {
        CapSet::CHOWN.keep_only().unwrap();
        Filter::make(&Rules::default()).unwrap_err()
    });
    let error = unprivileged.join().unwrap();
    assert!(matches!(error, crate::jail::network::Error::Group(_)), "{error}");
}

#[test]
fn another_init_is_filtered_as_the_first_was() {
    let services = Services::start(&LOOPBACK);
    let filter = filter(&[]);
    let jail = establish(Options { filter: Some(filter.clone()), ..Options::default() });
    // The one that was killed: another may be in its place at any time from now on.
    let first = jail.init().unwrap();
    first.line.kill();
    let ended = std::time::Instant::now() + Duration::from_secs(30);
    while first.line.ended().is_none() {
        assert!(std::time::Instant::now() < ended);
        std::thread::yield_now();
    }
    let script =
        format!("{REACH}\nprint(reach(lambda: tcp(v4, ('127.0.0.1', {}))))", services.port);
    assert_eq!(python(&jail, &script), ["ECONNREFUSED"]);
    jail.close(Duration::ZERO);
    filter.remove().unwrap();
}

#[test]
fn abstract_sockets_of_the_host_are_out_of_reach_of_both_kinds_of_session() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    let filter = filter(&[]);
    let (image, jails) = both(&filter, CapSet::EMPTY);
    let name = format!("ims-job-agent-network-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let script = format!(
        "s = socket.socket(socket.AF_UNIX)\nattempt('host', lambda: s.connect('\\0{name}'))\n\
         own, s = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)\n\
         own.bind('\\0{name}.own')\nown.listen()\n\
         attempt('own', lambda: s.connect('\\0{name}.own'))"
    );
    for jail in &jails {
        // A kernel before 6.12 has nothing to forbid it with; the log says so (docs/limits.md).
        if jail.init().unwrap().notes.is_empty() {
            assert_eq!(python(jail, &script), ["host EPERM", "own got None"]);
        }
    }
    drop(listener);
    close(image, jails, &filter);
}
