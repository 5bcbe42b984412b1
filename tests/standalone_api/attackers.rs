//! The real program with its defaults, and who should get nothing of it: a local user, a web page, a
//! session outside of a jail, somebody who opens connections. And its own clients, who should.

use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::lab::process::Process;
use crate::lab::stand::{Objects, Stand};
use crate::lab::{SOON, agent, eventually, free_port, tree};

const NOBODY: [&str; 6] = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"];

/// A program as a user with no rights.
fn nobody(program: &[&str]) -> Output {
    Command::new("setpriv").args(NOBODY).args(program).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn small_image(stand: &Stand) -> String {
    let (root, image) = (stand.dir.path().join("root"), stand.dir.path().join("base.sqsh"));
    tree::make_small_root(&root);
    tree::squash(&root, &image);
    stand.import("base", &image).await
}

/// What others may do to whatever is below `path`, but for the roots of images.
fn open_to_others(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let is_image = path.file_name().is_some_and(|name| name == "mnt" || name == "work");
        if meta.mode() & 0o077 != 0 && !is_image {
            found.push(format!("{} {:o}", path.display(), meta.mode()));
        }
        if meta.is_dir() && !is_image {
            found.extend(open_to_others(&path));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_user_gets_nothing() {
    let stand = Stand::start(Objects::Embedded).await;
    let image = small_image(&stand).await;
    let job = stand.customize(&image, true).await;
    job.reaches("waiting_on_user").await;
    std::fs::set_permissions(stand.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();

    let json = "Content-Type: application/json";
    let key = r#"{"name": "k", "public_key": "ssh-ed25519 AAAA evil"}"#;
    let post = format!(
        r#"{{"job_type": "customize", "artifact_id": "{image}", "public_key_id": "{image}",
            "image_root_archive_name": "x", "ssh_containers": [{{"jail": false}}]}}"#
    );
    for (method, path, body) in [
        ("POST", "public-keys", key),
        ("POST", "v3/jobs", post.as_str()),
        ("DELETE", "v2/images?cascade=true", "{}"),
        ("GET", "images", "{}"),
        ("GET", "version", "{}"),
        ("PUT", "apis/cfs/v3/configurations/c", r#"{"layers": []}"#),
    ] {
        let url = format!("{}/{path}", stand.ims.base);
        let said = nobody(&["curl", "-s", "-X", method, "-H", json, "-d", body, &url]);
        let problem: Value = serde_json::from_slice(&said.stdout).unwrap();
        assert_eq!(problem["status"], 401, "{method} {path}: {problem}");
    }
    let bucket = format!("{}boot-images", stand.s3.endpoint);
    assert!(text(&nobody(&["curl", "-s", &bucket]).stdout).contains("AccessDenied"));
    assert_eq!(stand.ims.get("v3/images").await.as_array().unwrap().len(), 1);
    assert_eq!(stand.ims.get("v3/jobs").await.as_array().unwrap().len(), 1);

    let data = stand.data();
    assert_eq!(std::fs::metadata(&data).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(open_to_others(&data), Vec::<String>::new());
    assert!(data.join("s3/blobs").read_dir().unwrap().count() > 0);
    for name in ["", "token", "records.redb", "s3/index.redb", "grants"] {
        let path = data.join(name);
        assert!(path.exists(), "{name}");
        let shown = nobody(&["sh", "-c", &format!("ls {0} || cat {0}", path.display())]);
        assert!(!shown.status.success() && shown.stdout.is_empty(), "{name}: {shown:?}");
    }
    assert!(!nobody(&["ls", "/run/ims-job-agent"]).status.success());
    // Nor does what is done as root run with what the service has set for itself.
    let process = std::fs::read(data.join("jobs").join(&job.id).join("process.json")).unwrap();
    let process: Value = serde_json::from_slice(&process).unwrap();
    let of =
        |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", process["pid"])).unwrap();
    assert!(of("status").contains("Umask:\t0022"), "{}", of("status"));
    let soft = getrlimit(Resource::RLIMIT_NOFILE).unwrap().0.to_string();
    let limits = of("limits");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().nth(3), Some(soft.as_str()), "{files}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_gets_nothing() {
    let stand = Stand::start(Objects::Embedded).await;
    let http = reqwest::Client::new();
    let images = format!("{}/v3/images", stand.ims.base);
    let bucket = format!("{}boot-images", stand.s3.endpoint);
    let port = stand.ims.base.rsplit(':').next().unwrap();
    for (header, value, expected) in [
        ("host", "evil.example".to_owned(), 421),
        ("host", format!("evil.example:{port}"), 421),
        ("host", format!("127.0.0.1.evil.example:{port}"), 421),
        ("origin", "http://evil.example".into(), 403),
        ("origin", "null".into(), 403),
        ("sec-fetch-site", "cross-site".into(), 403),
    ] {
        for url in [&images, &bucket] {
            let request = http.get(url).bearer_auth(stand.token()).header(header, &value);
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), expected, "{header}: {value}: {url}");
        }
    }
    let localhost = http.get(&images).bearer_auth(stand.token());
    let localhost = localhost.header("host", format!("localhost:{port}")).send().await.unwrap();
    assert_eq!(localhost.status(), 200);
    // What a form can send is no JSON, and no browser may read what we answer.
    let form = http.post(&images).bearer_auth(stand.token()).header("content-type", "text/plain");
    let answer = form.body(r#"{"name": "x"}"#).send().await.unwrap();
    assert_eq!(answer.status(), 415);
    let preflight = http.request(reqwest::Method::OPTIONS, &images);
    let preflight = preflight.header("access-control-request-method", "POST").send().await.unwrap();
    assert!(!preflight.status().is_success());
    for answer in [&answer, &preflight] {
        assert!(answer.headers().keys().all(|name| !name.as_str().starts_with("access-control")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_outside_of_a_jail_sees_no_secret() {
    let stand = Stand::start(Objects::Embedded).await;
    let image = small_image(&stand).await;
    let job = stand.customize(&image, false).await;
    let other = stand.customize(&image, true).await;
    job.reaches("waiting_on_user").await;
    other.reaches("waiting_on_user").await;
    let data = stand.data();
    let token = stand.token();
    // In brackets, so that the command itself, which the job's log may have, does not match.
    let script = format!(
        "umount {0}; umount -l {0}; mount -t devtmpfs none /mnt && ls /mnt; unshare -m umount {0}; \
         find {0} -maxdepth 2 | sort; cat {0}/token {0}/records.redb {0}/grants/*; \
         grep -rsal '[{1}]{2}' /run/ims-job-agent {0}; exit 0",
        data.display(),
        &token[..1],
        &token[1..],
    );
    let said = stand.key.try_exec(job.port, &script);
    let own = data.join("jobs").join(&job.id);
    let seen: Vec<_> =
        [data.clone(), data.join("jobs"), own].map(|path| path.display().to_string()).into();
    assert_eq!(text(&said.stdout).lines().collect::<Vec<_>>(), seen, "{said:?}");
    // Its own directory is there, as the agent needs it; the job goes on to its end.
    stand.key.exec(job.port, "touch /mnt/image/image-root/root/mine; touch /mnt/image/complete");
    job.reaches("success").await;
}

/// A standalone of our own, started by way of another program, with the keys that it makes.
struct Own {
    dir: tempfile::TempDir,
    process: Process,
    ims: String,
    s3: String,
}

impl Own {
    async fn start(wrapper: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (ims, s3) = (free_port(), free_port());
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(agent()).args(["standalone", "--data", "data"]);
        command.args(["--ims-listen", &format!("127.0.0.1:{ims}")]);
        command.args(["--s3-listen", &format!("127.0.0.1:{s3}")]).current_dir(dir.path());
        for name in ["S3_ACCESS_KEY", "S3_SECRET_KEY", "IMS_URL", "IMS_TOKEN_FILE"] {
            command.env_remove(name);
        }
        let process = Process::start(command, dir.path(), "standalone");
        let (ims, s3) = (format!("http://127.0.0.1:{ims}"), format!("http://127.0.0.1:{s3}"));
        let mut own = Self { dir, process, ims, s3 };
        eventually("standalone is ready", SOON, async || {
            assert!(own.process.is_running(), "{}", own.process.log());
            reqwest::get(format!("{}/healthz/ready", own.ims)).await.ok()
        })
        .await;
        own
    }

    fn token(&self) -> String {
        let path: PathBuf = self.dir.path().join("data/token");
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    }

    /// A command where this standalone's /run is.
    async fn command(&self, arguments: &[&str], vars: &[(&str, &str)]) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["-m", "-t", &self.process.id().to_string()]).arg(agent()).args(arguments);
        for name in ["IMS_URL", "S3_ENDPOINT", "S3_ACCESS_KEY", "S3_SECRET_KEY", "IMS_TOKEN_FILE"] {
            command.env_remove(name);
        }
        command.envs(vars.iter().copied()).env("IMS_PYTHON_HELPER_TIMEOUT", "5");
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }
}

/// A /run of its own, so that no other test's standalone is found.
const PRIVATE_RUN: [&str; 5] =
    ["unshare", "-m", "sh", "-c", r#"mount -t tmpfs tmpfs /run && exec "$0" "$@""#];

#[tokio::test(flavor = "multi_thread")]
async fn commands_find_the_standalone_of_this_machine_and_tell_nobody_else() {
    let own = Own::start(&PRIVATE_RUN).await;
    let root = own.dir.path().join("root");
    tree::make_small_root(&root);
    let list = ["image", "ls", "--format", "json"];
    let import = ["image", "import", "--name", "found", root.to_str().unwrap()];
    let import = own.command(&import, &[]).await;
    assert!(import.status.success(), "{}", text(&import.stderr));
    let listed = own.command(&list, &[]).await;
    assert!(text(&listed.stdout).contains("found"), "{}", text(&listed.stderr));
    assert!(!text(&import.stderr).contains(&own.token()), "the token is not logged");
    assert!(!own.process.log().contains(&own.token()), "the token is not logged");

    // Somebody else's URL gets nothing, with the file there or not.
    let (url, heard) = listener().await;
    let keys = [("S3_ENDPOINT", own.s3.as_str()), ("S3_ACCESS_KEY", "x"), ("S3_SECRET_KEY", "x")];
    let mut vars = vec![("IMS_URL", url.as_str())];
    vars.extend(keys);
    own.command(&list, &vars).await;
    // Its own URL by another name, at which another may listen.
    let named = own.ims.replace("127.0.0.1", "localhost");
    vars[0].1 = &named;
    let refused = own.command(&list, &vars).await;
    assert!(text(&refused.stderr).contains("401"), "{}", text(&refused.stderr));
    let given = own.dir.path().join("given");
    std::fs::write(&given, "given-token").unwrap();
    vars[0].1 = &url;
    vars.push(("IMS_TOKEN_FILE", given.to_str().unwrap()));
    own.command(&list, &vars).await;
    let heard: Vec<String> = heard.lock().unwrap().clone();
    assert!(heard.len() >= 2 && heard.iter().all(|it| it.is_empty() || it == "Bearer given-token"));
    assert!(heard.contains(&"Bearer given-token".to_owned()), "{heard:?}");
}

/// Takes down what it is sent as Authorization, and has no images.
async fn listener() -> (String, Arc<Mutex<Vec<String>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let hear = heard.clone();
    let answer = move |headers: axum::http::HeaderMap| async move {
        let sent = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
        hear.lock().unwrap().push(sent.unwrap_or_default());
        axum::Json(json!([]))
    };
    let router = axum::Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, heard)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_standalone_has_left_is_not_believed() {
    let mut own = Own::start(&PRIVATE_RUN).await;
    // A process that keeps its /run.
    let mut keeper = Command::new("nsenter");
    keeper.args(["-m", "-t", &own.process.id().to_string(), "sleep", "1000"]);
    let keeper = Process::start(keeper, own.dir.path(), "keeper");
    eventually("the keeper is there", SOON, async || {
        let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        (namespace(keeper.id()) == namespace(own.process.id())).then_some(())
    })
    .await;
    own.process.signal(nix::sys::signal::Signal::SIGKILL);
    own.process.wait(SOON).await;
    let files = std::fs::read_dir(format!("/proc/{}/root/run/ims-job-agent", keeper.id())).unwrap();
    assert_eq!(files.count(), 1, "it had no time to tidy up");
    // Another listens on its port now.
    let port = own.ims.rsplit(':').next().unwrap().parse::<u16>().unwrap();
    let rogue = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hear = heard.clone();
    let router = axum::Router::new().fallback(async move |headers: axum::http::HeaderMap| {
        hear.lock().unwrap().push(headers.contains_key("authorization"));
        axum::Json(json!([]))
    });
    tokio::spawn(async move { axum::serve(rogue, router).await });
    own.process = keeper;
    let keys = [("S3_ENDPOINT", own.s3.as_str()), ("S3_ACCESS_KEY", "x"), ("S3_SECRET_KEY", "x")];
    let mut vars = vec![("IMS_URL", own.ims.as_str())];
    vars.extend(keys);
    let listed = own.command(&["image", "ls"], &vars).await;
    assert!(listed.status.success(), "{}", text(&listed.stderr));
    assert_eq!(*heard.lock().unwrap(), [false]);
}

/// Opens connections to both listeners that say nothing, and sees that others are answered meanwhile.
async fn idle_connections(wrapper: &[&str]) {
    let files = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, files.1, files.1).unwrap();
    assert!(files.1 > 4000, "this test needs a hard limit of 4000 open files");
    let own = Own::start(wrapper).await;
    let mut idle = Vec::new();
    for url in [&own.ims, &own.s3] {
        for _ in 0..1500 {
            idle.push(TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap());
        }
    }
    for _ in 0..5 {
        // A connection of its own each time.
        let http = reqwest::Client::new();
        let begun = Instant::now();
        let images = http.get(format!("{}/images", own.ims)).bearer_auth(own.token());
        assert_eq!(images.send().await.unwrap().status(), 200);
        let bucket = http.get(format!("{}/boot-images", own.s3));
        assert_eq!(bucket.send().await.unwrap().status(), 403, "answered, though not signed");
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
    let log = own.process.log();
    assert!(log.matches("cannot accept").count() <= 2, "{log}");
    assert_eq!(idle.len(), 3000);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_keep_nobody_out() {
    // The usual soft limit, which is raised; then one that cannot be.
    idle_connections(&["prlimit", "--nofile=1024:8192"]).await;
    idle_connections(&["prlimit", "--nofile=1024:1024"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_asks_nothing_is_closed() {
    use std::io::{Read, Write};
    let own = Own::start(&["env"]).await;
    let begun = Instant::now();
    let slow = |url: &str| {
        let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        std::thread::spawn(move || {
            // A header that never ends.
            for byte in
                b"GET /images HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ".iter().chain([b'x'; 600].iter())
            {
                if stream.write_all(&[*byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            assert_eq!(stream.read(&mut [0; 16]).unwrap_or(0), 0);
        })
    };
    let (ims, s3) = (slow(&own.ims), slow(&own.s3));
    tokio::task::spawn_blocking(move || (ims.join().unwrap(), s3.join().unwrap())).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
}
