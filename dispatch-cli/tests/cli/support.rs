//! Running the binary, and a worker for it to post to.

use std::{
    collections::{HashMap, HashSet},
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use axum::{Router, body::Bytes as Body, extract::State, http::HeaderMap, http::StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::{Instant, sleep},
};

/// How long anything may take before a test gives up.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// The binary, in `dir`, with nothing of the caller's settings.
pub(crate) fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dispatch"));
    command
        .current_dir(dir)
        .args(args)
        .env("HOME", dir)
        .env_remove("XDG_CONFIG_HOME");
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("DISPATCH_")
            || name.starts_with("OTEL_")
            || ["RUST_LOG", "NO_COLOR", "NOTIFY_SOCKET"].contains(&name.as_str())
        {
            command.env_remove(name);
        }
    }
    command
}

/// What a short run printed.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs the binary to its end.
pub(crate) fn dispatch(dir: &Path, args: &[&str]) -> Done {
    done(command(dir, args).stdin(Stdio::null()))
}

pub(crate) fn done(command: &mut Command) -> Done {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    done_by(child, &format!("{command:?}"))
}

/// Waits for the end, and kills what has none.
fn done_by(child: Child, what: &str) -> Done {
    let pid = Pid::from_child(&child);
    let (ended, end) = mpsc::channel();
    let waiter = thread::spawn(move || {
        let output = child.wait_with_output().unwrap();
        ended.send(()).ok();
        output
    });
    let in_time = end.recv_timeout(2 * LONG).is_ok();
    if !in_time {
        kill_process(pid, Signal::KILL).unwrap();
    }
    let output = waiter.join().unwrap();
    assert!(
        in_time,
        "{what} does not end: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Done {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// As [`done`], for a reader that closes its end once it has read `reads` bytes, as `head` does.
pub(crate) fn cut_off(command: &mut Command, reads: usize) -> Done {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stdout, mut read) = (child.stdout.take().unwrap(), vec![0; reads]);
    stdout.read_exact(&mut read).unwrap();
    drop(stdout);
    let done = done_by(child, &format!("{command:?}"));
    let out = String::from_utf8(read).unwrap();
    Done { out, ..done }
}

/// As [`dispatch`] with something on standard input.
pub(crate) fn fed(dir: &Path, args: &[&str], input: &[u8]) -> Done {
    use std::io::Write as _;
    let mut command = command(dir, args);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let done = done_by(child, &format!("{args:?}"));
    writer.join().unwrap();
    done
}

/// The binary while it runs; killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    out: Arc<Mutex<Vec<u8>>>,
    readers: Vec<thread::JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start(dir: &Path, args: &[&str]) -> Self {
        Self::spawn(command(dir, args).stdin(Stdio::null()))
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self::over(child)
    }

    /// As [`spawn`](Self::spawn), with nobody to read what it prints.
    pub(crate) fn unread(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        Self::over(child)
    }

    fn over(mut child: Child) -> Self {
        let log = Arc::<Mutex<Vec<String>>>::default();
        let (stderr, stdout) = (child.stderr.take().unwrap(), child.stdout.take());
        let out = Arc::<Mutex<Vec<u8>>>::default();
        let (lines, printed) = (log.clone(), out.clone());
        let readers = vec![
            thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    lines.lock().unwrap().push(line);
                }
            }),
            thread::spawn(move || {
                // A full pipe would hold the binary up.
                let mut all = Vec::new();
                drop(stdout.map(|mut stdout| stdout.read_to_end(&mut all)));
                *printed.lock().unwrap() = all;
            }),
        ];
        Self {
            child,
            log,
            out,
            readers,
        }
    }

    /// What it reads; only if that was piped.
    pub(crate) fn input(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, Vec<String>> {
        self.log.lock().unwrap()
    }

    /// What it printed, once it has ended.
    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.out.lock().unwrap()).into_owned()
    }

    /// Waits for a log line that holds `part`.
    pub(crate) async fn says(&self, part: &str) -> String {
        let found = || self.log().iter().find(|line| line.contains(part)).cloned();
        match found_within(LONG, found).await {
            Some(line) => line,
            None => panic!("never said {part:?}: {:#?}", self.log()),
        }
    }

    /// Where its admin server listens.
    pub(crate) async fn admin(&self) -> String {
        let line = self.says("admin server listens").await;
        let line: Value = serde_json::from_str(&line).unwrap();
        format!("http://{}", line["address"].as_str().unwrap())
    }

    /// Where its admin server listens, once it is ready.
    pub(crate) async fn ready(&self) -> String {
        let admin = self.admin().await;
        until("ready", async || get(&format!("{admin}/readyz")).await.0 == 200).await;
        admin
    }

    /// Waits for its end and says its exit code.
    pub(crate) async fn ends(&mut self) -> i32 {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                for reader in self.readers.drain(..) {
                    reader.join().unwrap();
                }
                return status.code().unwrap_or(-1);
            }
            assert!(begun.elapsed() < LONG, "does not end: {:#?}", self.log());
            sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Asks again and again until there is an answer.
pub(crate) async fn found_within<T>(limit: Duration, mut find: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        let found = find();
        if found.is_some() || begun.elapsed() > limit {
            return found;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < LONG, "never: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// A response's status and body; 0 where nobody answers.
pub(crate) async fn get(url: &str) -> (u16, String) {
    ask("GET", url, &[]).await
}

pub(crate) async fn post(url: &str) -> (u16, String) {
    ask("POST", url, &[]).await
}

pub(crate) async fn ask(method: &str, url: &str, headers: &[(&str, &str)]) -> (u16, String) {
    send(method, url, headers, "").await
}

/// As [`ask`], with a body.
pub(crate) async fn send(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let uri: http::Uri = url.parse().unwrap();
    let exchange = async {
        let stream = TcpStream::connect(uri.authority().unwrap().as_str()).await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let mut request = http::Request::builder()
            .method(method)
            .uri(uri.path_and_query().unwrap().as_str())
            .header("host", uri.authority().unwrap().as_str());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = sender.send_request(request.body(Full::new(body)).unwrap()).await.ok()?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.ok()?.to_bytes();
        Some((status, String::from_utf8_lossy(&body).into_owned()))
    };
    exchange.await.unwrap_or_default()
}

/// A worker that counts what it is given.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    pub(crate) url: String,
    state: Arc<WorkerState>,
}

#[derive(Debug)]
struct WorkerState {
    /// What it answers.
    status: AtomicU16,
    /// Whether it keeps what it is given without an answer.
    holds: AtomicBool,
    go: Notify,
    /// How many requests wait for their answer.
    open: AtomicUsize,
    /// How often each message's id came.
    ids: Mutex<HashMap<String, u32>>,
    bodies: Mutex<Vec<Bytes>>,
    paths: Mutex<Vec<String>>,
    headers: Mutex<Vec<HeaderMap>>,
    keeps_bodies: bool,
    /// What it has refused, where it refuses every tenth message once; this is not counted.
    refused: Option<Mutex<HashSet<String>>>,
}

impl Worker {
    pub(crate) async fn start() -> Self {
        Self::begin(true, false).await
    }

    /// One that counts ids and forgets bodies.
    pub(crate) async fn counting() -> Self {
        Self::begin(false, false).await
    }

    /// As [`counting`](Self::counting), and refuses every message whose id ends in 0 once.
    pub(crate) async fn refusing_a_tenth() -> Self {
        Self::begin(false, true).await
    }

    async fn begin(keeps_bodies: bool, refuses: bool) -> Self {
        let state = Arc::new(WorkerState {
            status: AtomicU16::new(200),
            holds: AtomicBool::new(false),
            go: Notify::new(),
            open: AtomicUsize::new(0),
            ids: Mutex::default(),
            bodies: Mutex::default(),
            paths: Mutex::default(),
            headers: Mutex::default(),
            keeps_bodies,
            refused: refuses.then(Mutex::default),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(work).with_state(state.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, state }
    }

    pub(crate) fn answer(&self, status: u16) {
        self.state.status.store(status, SeqCst);
    }

    pub(crate) fn hold(&self) {
        self.state.holds.store(true, SeqCst);
    }

    pub(crate) fn let_go(&self) {
        self.state.holds.store(false, SeqCst);
        self.state.go.notify_waiters();
    }

    pub(crate) fn ids(&self) -> HashMap<String, u32> {
        self.state.ids.lock().unwrap().clone()
    }

    /// How many requests wait for their answer, whose callers are still there.
    pub(crate) fn open(&self) -> usize {
        self.state.open.load(SeqCst)
    }

    /// How many different messages came.
    pub(crate) fn count(&self) -> usize {
        self.state.ids.lock().unwrap().len()
    }

    pub(crate) fn bodies(&self) -> Vec<Bytes> {
        self.state.bodies.lock().unwrap().clone()
    }

    pub(crate) fn headers(&self) -> Vec<HeaderMap> {
        self.state.headers.lock().unwrap().clone()
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.state.paths.lock().unwrap().clone()
    }
}

/// One request, until it is answered or its caller is gone.
struct Open<'a>(&'a AtomicUsize);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

async fn work(State(state): State<Arc<WorkerState>>, uri: http::Uri, headers: HeaderMap, body: Body) -> StatusCode {
    let id = headers
        .get("idempotency-key")
        .or_else(|| headers.get("x-aws-sqsd-msgid"))
        .map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned());
    let id = id.unwrap_or_default();
    if let Some(refused) = &state.refused
        && id.ends_with('0')
        && refused.lock().unwrap().insert(id.clone())
    {
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    *state.ids.lock().unwrap().entry(id).or_default() += 1;
    if state.keeps_bodies {
        state.bodies.lock().unwrap().push(body);
        state.paths.lock().unwrap().push(uri.path().to_owned());
        state.headers.lock().unwrap().push(headers);
    }
    state.open.fetch_add(1, SeqCst);
    let _open = Open(&state.open);
    let go = state.go.notified();
    if state.holds.load(SeqCst) {
        go.await;
    }
    StatusCode::from_u16(state.status.load(SeqCst)).unwrap()
}

/// Past the harness, which keeps what passing tests print to itself.
pub(crate) fn tell(figures: &str) {
    std::io::Write::write_all(&mut std::io::stderr(), format!("{figures}\n").as_bytes()).unwrap();
}

/// A directory of its own with these files in it.
pub(crate) fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

/// A pipeline from `in.txt` to the worker, with an admin server on any free port.
pub(crate) fn file_to(worker: &Worker) -> String {
    format!(
        "name = \"p\"\n[source]\ntype = \"file\"\npaths = [\"in.txt\"]\n[layers]\nretry = {{ max_attempts = 2, backoff = {{ base = \"10ms\" }} }}\n\
         [sink]\ntype = \"http\"\nurl = \"{}/work\"\n[admin]\nlisten = \"127.0.0.1:0\"\n",
        worker.url
    )
}

/// A pipeline from the queue `work` to the worker, with an admin server on any free port.
pub(crate) fn queue_to(worker: &Worker) -> String {
    file_to(worker).replace(
        "type = \"file\"\npaths = [\"in.txt\"]",
        "type = \"queue\"\nqueue = \"work\"",
    )
}

/// So many lines, each different.
pub(crate) fn lines(count: usize) -> String {
    (0..count).map(|n| format!("line {n}\n")).collect()
}
