//! The queue when its server dies and a standby takes over: two real servers of our own, the second a synchronous standby of
//! the first.

use std::{
    collections::HashMap,
    fs,
    net::TcpListener,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use dispatch_core::{
    BoxError, Message, Pipeline, Store,
    config::{StoreConfig, StoreContext},
    sink_fn,
    store::{Item, QueueSource},
};
use dispatch_store::PostgresConfig;
use sea_orm::{ConnectionTrait, Database, DatabaseConnection};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

/// How long a server may take to start, and a standby to take over.
const LONG: Duration = Duration::from_secs(60);
/// How many messages there are, one each few milliseconds.
const COUNT: usize = 1_500;

/// One server, killed at the end.
struct Node {
    process: Child,
    port: u16,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Node {
    fn kill(&mut self) {
        // What has ended already cannot be ended again.
        drop(self.process.kill());
        self.process.wait().unwrap();
    }

    fn url(&self) -> String {
        format!("postgres://dispatch@127.0.0.1:{}/postgres", self.port)
    }

    /// Once it answers; whether it takes writes or not.
    async fn admin(&self) -> DatabaseConnection {
        let connected = timeout(LONG, async {
            loop {
                match Database::connect(self.url()).await {
                    Ok(admin) => return admin,
                    Err(_) => sleep(Duration::from_millis(20)).await,
                }
            }
        });
        connected.await.expect("the server answers within a minute")
    }
}

/// Where Debian keeps the programs of the newest version, and where two servers keep their data.
struct Place {
    programs: PathBuf,
    /// PostgreSQL refuses to run as root.
    as_user: Vec<String>,
    directory: TempDir,
}

impl Place {
    /// None where there is no server to start; in CI that is a failure.
    fn find(test: &str) -> Option<Self> {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let programs = versions.map(|version| version.path().join("bin"));
        let newest = programs.filter(|programs| programs.join("initdb").exists()).max();
        let Some(programs) = newest else {
            assert_ne!(
                std::env::var("CI").as_deref(),
                Ok("true"),
                "{test}: CI must have Debian's postgresql"
            );
            let line = format!("skipped: {test}: no initdb below /usr/lib/postgresql\n");
            std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
            return None;
        };
        // A directory that another user can reach.
        let directory = tempfile::Builder::new()
            .prefix("dispatch-failover.")
            .tempdir_in("/var/tmp")
            .unwrap();
        let mut as_user = Vec::new();
        if id(&["-u"]) == 0 {
            let [user, group] = [id(&["-u", "postgres"]), id(&["-g", "postgres"])];
            chown(directory.path(), Some(user), Some(group)).unwrap();
            as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
                .map(str::to_owned)
                .to_vec();
        }
        Some(Self {
            programs,
            as_user,
            directory,
        })
    }

    fn data(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A program of PostgreSQL, as a user that may run it. `setpriv` becomes the program, so the process is the server's.
    fn program(&self, name: &str) -> Command {
        let words = self.as_user.iter().cloned();
        let program = self.programs.join(name).to_string_lossy().into_owned();
        let mut words = words.chain([program]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn run(&self, name: &str, arguments: &[&str]) {
        let status = self.program(name).args(arguments).status().unwrap();
        assert!(status.success(), "{name} {arguments:?} ends with {status}");
    }

    fn serve(&self, data: &Path) -> Node {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = self.program("postgres");
        command.arg("-D").arg(data);
        for setting in [
            "listen_addresses=127.0.0.1",
            &format!("port={port}"),
            "unix_socket_directories=",
            "max_connections=40",
            "shared_buffers=16MB",
        ] {
            command.args(["-c", setting]);
        }
        let process = command.spawn().unwrap();
        Node { process, port }
    }
}

fn id(arguments: &[&str]) -> u32 {
    let output = Command::new("id").args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// The first server, and a standby that has all that the first one calls written.
async fn pair(place: &Place) -> (Node, Node) {
    let [first, second] = ["first", "second"].map(|name| place.data(name));
    let initdb = ["--username=dispatch", "--auth=trust", "--no-sync", "--pgdata"];
    place.run("initdb", &[&initdb[..], &[first.to_str().unwrap()]].concat());
    let primary = place.serve(&first);
    let admin = primary.admin().await;
    let copy = format!("--dbname=postgres://dispatch@127.0.0.1:{}/postgres", primary.port);
    place.run(
        "pg_basebackup",
        &[
            &copy,
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--pgdata",
            second.to_str().unwrap(),
        ],
    );
    let standby = place.serve(&second);
    standby.admin().await;
    for change in [
        "ALTER SYSTEM SET synchronous_standby_names = '*'",
        "SELECT pg_reload_conf()",
    ] {
        admin.execute_unprepared(change).await.unwrap();
    }
    let is_synchronous = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'";
    timeout(LONG, async {
        while admin.query_one_raw(statement(is_synchronous)).await.unwrap().is_none() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the standby is synchronous within a minute");
    (primary, standby)
}

fn statement(sql: &str) -> sea_orm::Statement {
    sea_orm::Statement::from_string(sea_orm::DbBackend::Postgres, sql)
}

/// Enqueues every number, each until the store says that it has it.
async fn publish(store: Arc<dyn Store>) {
    for number in 0..COUNT {
        let item = || vec![Item::of(&Message::with_id(format!("m{number}"), number.to_string()))];
        while store.queue().enqueue("q", item()).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
        sleep(Duration::from_millis(2)).await;
    }
}

fn open(url: &str) -> Arc<dyn Store> {
    let config: PostgresConfig =
        serde_json::from_value(serde_json::json!({ "url": url, "connect_timeout": "2s" })).unwrap();
    config.build(&StoreContext { base_dir: ".".into() }).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_takes_over_has_all_that_was_stored() {
    let Some(place) = Place::find("a_standby_that_takes_over_has_all_that_was_stored") else {
        return;
    };
    let (mut primary, standby) = pair(&place).await;
    let url = format!(
        "postgres://dispatch@127.0.0.1:{},127.0.0.1:{}/postgres",
        primary.port, standby.port
    );
    let store = open(&url);
    let seen: Arc<Mutex<HashMap<usize, usize>>> = Arc::default();
    let (killed, again) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
    let sink = {
        let (seen, killed, again) = (seen.clone(), killed.clone(), again.clone());
        sink_fn(move |message: Message| {
            let number = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
            *seen.lock().unwrap().entry(number).or_default() += 1;
            if killed.load(Relaxed) {
                again.lock().unwrap().get_or_insert_with(Instant::now);
            }
            async { Ok::<_, BoxError>(()) }
        })
    };
    let pipeline = Pipeline::builder("test")
        .source(QueueSource::new(store.clone(), "q").lease(Duration::from_secs(5)))
        .store(store.clone())
        .sink(sink)
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    let publisher = tokio::spawn(publish(open(&url)));
    let until = async |count: usize| {
        while seen.lock().unwrap().len() < count {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, until(COUNT / 3)).await.expect("a third comes at first");

    primary.kill();
    let (died, before) = (Instant::now(), seen.lock().unwrap().len());
    killed.store(true, Relaxed);
    standby
        .admin()
        .await
        .execute_unprepared("SELECT pg_promote()")
        .await
        .unwrap();
    let ended = timeout(LONG * 2, async {
        publisher.await.unwrap();
        until(COUNT).await;
    });
    let ended = ended.await;
    handle.drain();
    run.await.unwrap().unwrap();
    store.close().await.unwrap();

    let seen = seen.lock().unwrap();
    let lost = COUNT - seen.len();
    let duplicates: usize = seen.values().map(|times| times - 1).sum();
    let recovered = again.lock().unwrap().map(|at| at - died);
    println!("killed after {before}: lost {lost}, duplicated {duplicates}, recovered after {recovered:?}");
    assert!(ended.is_ok(), "lost {lost} of {COUNT}");
    // What was claimed, or done, and had not reached the standby yet; and one whose publisher was not told.
    assert!(duplicates <= 64, "{duplicates} came twice");
}
