//! Forwarding: TCP, Unix sockets inside the jail, the client's ssh-agent; and who may use them.

#[path = "support/server.rs"]
mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ims_job_agent::ssh::Forwarding;
use support::{DEADLINE, Lab, eventually, image, jail_in, output, text};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::process::Command;

/// A server that answers every connection with what it gets.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = tcp.into_split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    port
}

/// A port below those that the kernel gives out, so that no other test gets it meanwhile.
async fn free_port() -> u16 {
    loop {
        let port = rand::random_range(20_000..30_000);
        if TcpListener::bind(("127.0.0.1", port)).await.is_ok() {
            return port;
        }
    }
}

/// Sends 8 MiB through `port` and expects them back, end included.
async fn through(port: u16) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let tcp = loop {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(tcp) => break tcp,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let (read, write) = tcp.into_split();
    echoed(read, write).await;
}

/// Sends 8 MiB and expects them back, end included.
async fn echoed(
    mut read: impl AsyncRead + Unpin,
    mut write: impl AsyncWrite + Unpin + Send + 'static,
) {
    let sent = vec![3; 8 << 20];
    let writing = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut got = Vec::new();
    tokio::time::timeout(DEADLINE, read.read_to_end(&mut got)).await.unwrap().unwrap();
    writing.await.unwrap();
    assert_eq!(got.len(), 8 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_is_forwarded_both_ways_and_stops_with_the_client() {
    let lab = Lab::start().await;
    let (target, near, far) = (echo().await, free_port().await, free_port().await);
    let local = format!("-L{near}:127.0.0.1:{target}");
    let remote = format!("-R{far}:127.0.0.1:{target}");
    let mut child =
        lab.ssh(&["-N", "-oExitOnForwardFailure=yes", &local, &remote]).spawn().unwrap();
    for _ in 0..10 {
        through(near).await;
        through(far).await;
    }
    // Programs may take `localhost` for either address. Some containers have no IPv6.
    if std::net::TcpListener::bind(("::1", 0)).is_ok() {
        assert!(std::net::TcpStream::connect(("::1", far)).is_ok());
    }
    child.kill().await.unwrap();
    eventually("the listener's end", || std::net::TcpStream::connect(("127.0.0.1", far)).is_err())
        .await;
}

/// The client closes as soon as it has sent everything: what is on its way must still arrive.
#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_greeting_arrives_whole_when_its_sender_closes_at_once() {
    let lab = Lab::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tcp.write_all(&vec![1; 1 << 20]).await.unwrap();
        }
    });
    let far = free_port().await;
    let remote = format!("-R{far}:127.0.0.1:{target}");
    let mut child = lab.ssh(&["-N", "-oExitOnForwardFailure=yes", &remote]).spawn().unwrap();
    eventually("the listener", || std::net::TcpStream::connect(("127.0.0.1", far)).is_ok()).await;
    for _ in 0..20 {
        let mut tcp = TcpStream::connect(("127.0.0.1", far)).await.unwrap();
        tcp.shutdown().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut got = Vec::new();
        tokio::time::timeout(DEADLINE, tcp.read_to_end(&mut got)).await.unwrap().unwrap();
        assert_eq!(got.len(), 1 << 20);
    }
    child.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarding_can_be_forbidden_by_the_server_and_by_the_key() {
    let target = echo().await;
    let through = format!("127.0.0.1:{target}");
    let permitted = format!(r#"permitopen="127.0.0.1:{target}""#);
    let elsewhere = r#"permitopen="127.0.0.1:1""#;
    for (options, forwarding, local, remote) in [
        ("", Forwarding::None, false, false),
        ("", Forwarding::Local, true, false),
        ("no-port-forwarding", Forwarding::All, false, false),
        ("restrict,port-forwarding", Forwarding::All, true, true),
        (permitted.as_str(), Forwarding::All, true, true),
        (elsewhere, Forwarding::All, false, true),
        (r#"permitlisten="localhost:1""#, Forwarding::All, true, false),
    ] {
        let lab = Lab::with(options, |config| config.forwarding = forwarding).await;
        let done = output(&mut lab.ssh(&["-W", &through])).await;
        assert_eq!(done.status.success(), local, "{options} {forwarding:?}: {done:?}");
        let listen = format!("-R127.0.0.1:{}:{through}", free_port().await);
        let done = output(lab.ssh(&["-oExitOnForwardFailure=yes", &listen]).arg("true")).await;
        assert_eq!(done.status.success(), remote, "{options} {forwarding:?}: {done:?}");
    }
}

/// A lab whose sessions live in an image, and the image.
async fn jailed(options: &str, forwarding: Forwarding) -> (Lab, tempfile::TempDir) {
    let image = image();
    let jail = jail_in(image.path());
    let lab = Lab::with(options, |config| {
        config.jail = jail;
        config.forwarding = forwarding;
    })
    .await;
    (lab, image)
}

/// A Unix socket that answers with what it gets.
fn unix_echo(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.into_split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_path_is_the_sessions_own() {
    let (lab, image) = jailed("", Forwarding::All).await;
    unix_echo(&image.path().join("tmp/inside"));
    unix_echo(&lab.path("outside"));
    let near = free_port().await;
    let inside = format!("-L{near}:/tmp/inside");
    let mut child = lab.ssh(&["-N", &inside]).spawn().unwrap();
    through(near).await;
    through(near).await;
    child.kill().await.unwrap();
    let outside = lab.path("outside");
    let up = format!("/../../..{}", outside.display());
    for path in [outside.to_str().unwrap(), "/tmp/none", "/etc/passwd", &up] {
        let near = free_port().await;
        let forward = format!("-L{near}:{path}");
        let mut child = lab.ssh(&["-N", &forward]).stderr(Stdio::piped()).spawn().unwrap();
        eventually("the client's port", || {
            std::net::TcpStream::connect(("127.0.0.1", near)).is_ok()
        })
        .await;
        let mut tcp = TcpStream::connect(("127.0.0.1", near)).await.unwrap();
        let mut got = Vec::new();
        // A refused channel is the connection's end; some kernels tell it by a reset.
        let _ = tokio::time::timeout(DEADLINE, tcp.read_to_end(&mut got)).await.unwrap();
        assert_eq!(got, b"", "{path}");
        child.kill().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_socket_is_in_the_image_while_its_client_is_there() {
    let (lab, image) = jailed("", Forwarding::All).await;
    let socket = image.path().join("tmp/far");
    let target = echo().await;
    let forward = format!("-R/tmp/far:127.0.0.1:{target}");
    let strict = "-oExitOnForwardFailure=yes";
    let mut child = lab.ssh(&["-N", strict, &forward]).spawn().unwrap();
    eventually("the socket", || socket.exists()).await;
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    for _ in 0..3 {
        let (read, write) = UnixStream::connect(&socket).await.unwrap().into_split();
        echoed(read, write).await;
    }
    let taken = output(lab.ssh(&[strict, &forward]).arg("true")).await;
    assert!(!taken.status.success(), "the path is taken: {taken:?}");
    child.kill().await.unwrap();
    eventually("the socket's end", || !socket.exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_a_client_took_back_or_the_server_closed_leaves_nothing() {
    let (lab, image) = jailed("", Forwarding::All).await;
    let mux = format!("-oControlPath={}", lab.path("mux").display());
    let mut master = lab.ssh(&["-MN", &mux]).spawn().unwrap();
    eventually("the master's socket", || lab.path("mux").exists()).await;
    let target = echo().await;
    for name in ["one", "two"] {
        let forward = format!("-R/tmp/{name}:127.0.0.1:{target}");
        let done = output(&mut lab.ssh(&[&mux, "-Oforward", &forward])).await;
        assert!(done.status.success(), "{done:?}");
    }
    let socket = |name: &str| image.path().join("tmp").join(name);
    assert!(socket("one").exists() && socket("two").exists());
    let done = output(&mut lab.ssh(&[&mux, "-Ocancel", "-R/tmp/one:127.0.0.1:1"])).await;
    drop(done);
    let forward = format!("-R/tmp/one:127.0.0.1:{target}");
    output(&mut lab.ssh(&[&mux, "-Ocancel", &forward])).await;
    eventually("the cancelled socket's end", || !socket("one").exists()).await;
    assert!(socket("two").exists());
    lab.server.close("", Duration::from_secs(1)).await;
    assert!(!socket("two").exists(), "gone when the server is");
    let _ = master.wait().await;
}

/// An ssh-agent with the lab's ed25519 key.
async fn ssh_agent(lab: &Lab) -> (tokio::process::Child, PathBuf) {
    let socket = lab.path("agent");
    let mut command = Command::new("ssh-agent");
    command.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).kill_on_drop(true);
    let agent = command.spawn().unwrap();
    eventually("ssh-agent", || socket.exists()).await;
    let mut add = Command::new("ssh-add");
    add.env("SSH_AUTH_SOCK", &socket).arg(lab.path("ed25519"));
    let added = output(&mut add).await;
    assert!(added.status.success(), "{added:?}");
    (agent, socket)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_agent_can_be_asked_from_a_session() {
    let lab = Lab::start().await;
    let (_agent, socket) = ssh_agent(&lab).await;
    let mut command = lab.ssh(&["-A"]);
    command.env("SSH_AUTH_SOCK", &socket).arg("ssh-add -l && ssh-add -L && echo $SSH_AUTH_SOCK");
    let done = output(&mut command).await;
    let said = text(&done.stdout);
    assert!(done.status.success() && said.contains("ED25519"), "{done:?}");
    let path = PathBuf::from(said.lines().last().unwrap());
    assert!(path.starts_with("/run"), "{path:?}");
    eventually("the socket's end", || !path.parent().unwrap().exists()).await;

    let mut command = lab.ssh(&[]);
    command.env("SSH_AUTH_SOCK", &socket).arg("echo ${SSH_AUTH_SOCK-none}");
    assert_eq!(text(&output(&mut command).await.stdout), "none\n", "not asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_socket_is_in_the_jail_and_not_in_the_image() {
    let (lab, image) = jailed("", Forwarding::All).await;
    let (_agent, socket) = ssh_agent(&lab).await;
    let mut command = lab.ssh(&["-A"]);
    command.env("SSH_AUTH_SOCK", &socket);
    let done = output(command.arg("ls -l $SSH_AUTH_SOCK; ls -ld /run/ssh-*")).await;
    let said = text(&done.stdout);
    assert!(said.contains("srw-------") && said.contains("drwx------"), "{done:?}");
    assert_eq!(std::fs::read_dir(image.path().join("run")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_and_agents_can_be_forbidden_by_the_server_and_by_the_key() {
    for (options, forwarding, local, remote, agent) in [
        ("", Forwarding::All, true, true, true),
        ("", Forwarding::None, false, false, false),
        ("", Forwarding::Local, true, false, false),
        ("no-port-forwarding", Forwarding::All, false, false, true),
        ("no-agent-forwarding", Forwarding::All, true, true, false),
        ("restrict", Forwarding::All, false, false, false),
        ("restrict,agent-forwarding", Forwarding::All, false, false, true),
        (r#"permitopen="127.0.0.1:1""#, Forwarding::All, false, true, true),
        (r#"permitlisten="localhost:1""#, Forwarding::All, true, false, true),
    ] {
        let what = format!("{options} {forwarding:?}");
        let (lab, image) = jailed(options, forwarding).await;
        let (_agent, socket) = ssh_agent(&lab).await;
        let mut command = lab.ssh(&["-A"]);
        command.env("SSH_AUTH_SOCK", &socket).arg("test -S \"$SSH_AUTH_SOCK\"");
        assert_eq!(output(&mut command).await.status.success(), agent, "agent: {what}");
        let forward = ["-oExitOnForwardFailure=yes", "-R/tmp/far:127.0.0.1:1"];
        let done = output(lab.ssh(&forward).arg("true")).await;
        assert_eq!(done.status.success(), remote, "remote: {what}: {done:?}");
        unix_echo(&image.path().join("tmp/inside"));
        let near = lab.path("near");
        let forward = format!("-L{}:/tmp/inside", near.display());
        let mut child = lab.ssh(&["-N", &forward]).stderr(Stdio::null()).spawn().unwrap();
        let ready = || std::os::unix::net::UnixStream::connect(&near).is_ok();
        eventually("the client's socket", ready).await;
        let mut stream = UnixStream::connect(&near).await.unwrap();
        let _ = stream.write_all(b"x").await;
        let _ = stream.shutdown().await;
        let mut got = Vec::new();
        let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut got)).await.unwrap();
        assert_eq!(got == b"x", local, "local: {what}");
        child.kill().await.unwrap();
    }
}
