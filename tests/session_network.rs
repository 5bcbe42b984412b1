//! Sessions that share the network with a host, over SSH: what clients forward obeys what holds for the
//! sessions, and what sessions serve themselves is reached.

#[path = "support/server.rs"]
mod support;

use std::process::Stdio;
use std::time::Duration;

use ims_job_agent::jail::network::{Filter, Rules};
use ims_job_agent::jail::{Jail, Options, Plan};
use linux::capability::CapSet;
use support::{DEADLINE, Lab, eventually, image, output, text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// A service of the host that greets whoever connects.
async fn service(address: &str) -> u16 {
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let _ = tcp.write_all(b"host").await;
        }
    });
    port
}

fn filter() -> Filter {
    Filter::make(&Rules::of_this_host(Vec::new()).unwrap()).unwrap()
}

/// Sessions in `root`, or in this machine's own tree.
async fn lab(root: Option<&std::path::Path>, filter: &Filter) -> Lab {
    let (root, filter) = (root.map(Into::into), Some(filter.clone()));
    let options = Options { root, filter, ..Options::default() };
    let plan = Plan::new(options, CapSet::effective().unwrap()).unwrap();
    let jail = Jail::establish(plan).unwrap();
    Lab::with("", |config| config.jail = jail).await
}

fn free_port() -> u16 {
    loop {
        let port = rand::random_range(20_000..30_000);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// What is read from a port of the client's until its end.
async fn read(port: u16) -> String {
    let mut got = Vec::new();
    let read = async {
        let mut tcp = TcpStream::connect(("127.0.0.1", port)).await?;
        tcp.read_to_end(&mut got).await
    };
    // A refused channel is the connection's end; some kernels tell it by a reset.
    let _ = tokio::time::timeout(DEADLINE, read).await.expect("an end");
    text(&got)
}

/// A client with these options and no command, once it listens on `port`.
async fn forwarding(lab: &Lab, option: &str, port: u16) -> Child {
    let child = lab.ssh(&["-N", option]).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the client's port", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())
        .await;
    child
}

/// What `curl` gets of an address through the client's SOCKS server.
async fn through_socks(socks: u16, target: &str) -> String {
    let mut curl = Command::new("curl");
    curl.args(["-s", "--http0.9", "--max-time", "20", "--proxy"])
        .arg(format!("socks5h://127.0.0.1:{socks}"))
        .arg(format!("http://{target}/"));
    text(&output(&mut curl).await.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_forwarding_leads_to_a_service_of_the_host() {
    let (v4, v6) = (service("127.0.0.1").await, service("::1").await);
    let filter = filter();
    let image = image();
    for root in [None, Some(image.path())] {
        let lab = lab(root, &filter).await;
        for target in [
            format!("127.0.0.1:{v4}"),
            format!("localhost:{v4}"),
            format!("0.0.0.0:{v4}"),
            format!("[::ffff:127.0.0.1]:{v4}"),
            format!("[::1]:{v6}"),
        ] {
            let done = output(&mut lab.ssh(&["-W", &target])).await;
            assert!(!done.status.success() && done.stdout.is_empty(), "-W {target}: {done:?}");
            let near = free_port();
            let mut client = forwarding(&lab, &format!("-L{near}:{target}"), near).await;
            assert_eq!(read(near).await, "", "-L {target}");
            client.kill().await.unwrap();
        }
        let socks = free_port();
        let mut client = forwarding(&lab, &format!("-D{socks}"), socks).await;
        for target in [format!("127.0.0.1:{v4}"), format!("[::1]:{v6}")] {
            assert_eq!(through_socks(socks, &target).await, "", "-D {target}");
        }
        client.kill().await.unwrap();
        // The own SSH server is a service of the host, too.
        let own = format!("127.0.0.1:{}", lab.port());
        assert!(!output(&mut lab.ssh(&["-W", &own])).await.status.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_serves_is_reached_by_forwarding_and_by_another_session() {
    let filter = filter();
    let lab = lab(None, &filter).await;
    let port = free_port();
    let serve =
        format!("exec python3 -m http.server --bind 127.0.0.1 --directory /usr/share {port}");
    let mut server = lab.ssh(&["-tt"]).arg(serve).stdout(Stdio::null()).spawn().unwrap();
    let get = format!(
        "exec python3 -c 'import urllib.request as r; print(r.urlopen(\"http://127.0.0.1:{port}/\").status)'"
    );
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while text(&lab.exec(&get).await.stdout) != "200\n" {
        assert!(tokio::time::Instant::now() < deadline, "another session gets nothing");
    }
    assert!(
        tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(("127.0.0.1", port)))
            .await
            .map_or(true, |connected| connected.is_err()),
        "the host itself is kept apart"
    );
    let near = free_port();
    let mut client = forwarding(&lab, &format!("-L{near}:localhost:{port}"), near).await;
    let mut curl = Command::new("curl");
    curl.args([
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        &format!("http://127.0.0.1:{near}/"),
    ]);
    assert_eq!(text(&output(&mut curl).await.stdout), "200", "-L");
    client.kill().await.unwrap();
    let socks = free_port();
    let mut client = forwarding(&lab, &format!("-D{socks}"), socks).await;
    let page = through_socks(socks, &format!("127.0.0.1:{port}")).await;
    assert!(page.contains("Directory listing"), "-D: {page}");
    client.kill().await.unwrap();
    server.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_reaches_what_its_client_forwards_to_it() {
    let target = service("127.0.0.1").await;
    let filter = filter();
    let lab = lab(None, &filter).await;
    let far = free_port();
    let forward = format!("-R{far}:127.0.0.1:{target}");
    let strict = "-oExitOnForwardFailure=yes";
    let get = |ip: &str| {
        format!(
            "exec python3 -c 'import socket; s = socket.create_connection((\"{ip}\", {far}), 20); print(s.recv(9))'"
        )
    };
    for ip in ["127.0.0.1", "localhost", "::1"] {
        let done = output(lab.ssh(&[strict, &forward]).arg(get(ip))).await;
        assert_eq!(text(&done.stdout), "b'host'\n", "{ip}: {done:?}");
    }
    // A port that a service of the host has cannot be had, and one that the server chooses can.
    let taken = format!("-R127.0.0.1:{target}:127.0.0.1:{target}");
    assert!(!output(lab.ssh(&[strict, &taken]).arg("true")).await.status.success());
    let chosen = format!("-R0:127.0.0.1:{target}");
    assert!(output(lab.ssh(&[strict, &chosen]).arg("true")).await.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_every_kind_are_kept_from_the_hosts_services() {
    let port = service("127.0.0.1").await;
    let filter = filter();
    let lab = lab(None, &filter).await;
    let connect = format!(
        "python3 -c 'import socket; s = socket.create_connection((\"127.0.0.1\", {port}), 20); print(s.recv(9))'"
    );
    for options in [&[][..], &["-tt"]] {
        let done = output(lab.ssh(options).arg(&connect)).await;
        let said = text(&done.stdout) + &text(&done.stderr);
        assert!(said.contains("Connection refused") && !said.contains("b'host'"), "{said}");
    }
    let mut shell = lab.ssh(&["-T"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    stdin.write_all(format!("{connect} 2>&1\nexit\n").as_bytes()).await.unwrap();
    drop(stdin);
    let said = text(&shell.wait_with_output().await.unwrap().stdout);
    assert!(said.contains("Connection refused") && !said.contains("b'host'"), "{said}");
}
