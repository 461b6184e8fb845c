//! The demo of `examples/dispatcherd`, file for file as it stands there, with the real package.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use dispatch_core::random_id;
use rustix::process::Signal;
use tokio_postgres::{Client, NoTls, config::Host};

use crate::support::{Done, Running, command, done, until};

/// As the original's page says it.
const HELLOS: &str =
    "from test_methods import print_hello\nprint_hello.delay()\nprint_hello.apply_async(args=[], kwargs={})";

/// A copy of the examples, and a database of its own: its channels have the demo's names.
struct Demo {
    dir: tempfile::TempDir,
    python: PathBuf,
    url: String,
    name: String,
    client: Client,
}

impl Demo {
    /// None where there is no server or no Python with dispatcherd; in CI that is a failure.
    async fn new(test: &str) -> Option<Self> {
        let url = crate::postgres::url(test)?;
        let Ok(python) = std::env::var("DISPATCH_TEST_PYTHON") else {
            assert!(std::env::var_os("CI").is_none(), "DISPATCH_TEST_PYTHON is not set");
            crate::support::tell(&format!("skipped: {test}: DISPATCH_TEST_PYTHON is not set"));
            return None;
        };
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        let name = format!("demo_{}", random_id().replace('-', "_").to_lowercase());
        client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        std::fs::copy(examples.join("dispatcherd.toml"), dir.path().join("dispatcherd.toml")).unwrap();
        copy(&examples.join("dispatcherd"), &dir.path().join("dispatcherd"));
        symlink(env!("CARGO_BIN_EXE_dispatch"), dir.path().join("dispatcher-standalone")).unwrap();
        Some(Self {
            dir,
            python: python.into(),
            url,
            name,
            client,
        })
    }

    /// Where `dispatcher.yml` lies.
    fn home(&self) -> PathBuf {
        self.dir.path().join("dispatcherd")
    }

    fn config(&self) -> tokio_postgres::Config {
        self.url.parse().unwrap()
    }

    /// A shell in `dispatcherd/`, with the virtual environment activated and libpq's variables for the database.
    fn shell<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let config = self.config();
        let [Host::Tcp(host)] = config.get_hosts() else {
            panic!("a host")
        };
        let password = String::from_utf8_lossy(config.get_password().unwrap_or_default()).into_owned();
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .current_dir(self.home())
            .env("PGHOST", host)
            .env("PGPORT", config.get_ports()[0].to_string())
            .env("PGUSER", config.get_user().unwrap_or("postgres"))
            .env("PGPASSWORD", password)
            .env("PGDATABASE", &self.name)
            .env("PYTHONPATH", "tools")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env_remove("DISPATCHERD_CONFIG_FILE")
            .env("PATH", format!("{}:{path}", self.python.parent().unwrap().display()))
    }

    fn python(&self, arguments: &[&str]) -> Done {
        done(self.shell(Command::new("python").args(arguments)))
    }

    fn publish(&self, code: &str) {
        let code = format!("from dispatcherd.config import setup\nsetup(file_path='dispatcher.yml')\n{code}");
        let done = self.python(&["-c", &code]);
        assert_eq!(done.code, 0, "{done:?}");
    }

    /// How many tasks are done that somebody published: all, but those of the schedule and of the start.
    fn done(&self) -> i64 {
        let status = done(self.shell(&mut command(&self.home(), &["ctl", "--json", "status"]))).json();
        let count = |pointer: &str| status[0].pointer(pointer).and_then(serde_json::Value::as_i64).unwrap();
        count("/main/pool/finished_count")
            - count("/producers/scheduled-producer/produced_count")
            - count("/producers/on-start-producer/produced_count")
    }

    async fn is_done(&self, count: i64) {
        until(&format!("{count} published tasks are done"), async || {
            self.done() >= count
        })
        .await;
    }

    async fn end(self) {
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        self.client.batch_execute(&sql).await.unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// How often a worker has printed this.
fn printed(service: &Running, text: &str) -> usize {
    service.log().iter().filter(|line| line.contains(text)).count()
}

#[tokio::test]
async fn the_demo_runs_as_it_stands_under_both_names() {
    for link in [false, true] {
        let Some(demo) = Demo::new("the_demo_runs_as_it_stands_under_both_names").await else {
            return;
        };
        let mut start = if link {
            Command::new("../dispatcher-standalone")
        } else {
            command(&demo.home(), &["dispatcherd"])
        };
        let mut service = Running::spawn(demo.shell(&mut start));

        // Nobody has published anything: the start and the schedule alone.
        service.says("the service has started").await;
        service.says("hello world!!").await;
        assert_eq!(printed(&service, "the service has started"), 1);
        let burst = demo.python(&["tools/write_messages.py"]);
        assert_eq!((burst.code, burst.out.trim()), (0, "published"), "{burst:?}");
        service.says("hello from the-demos-last").await;
        service.says("slept 3 s").await;
        // Nine of ten were discarded: their like ran or waited.
        demo.is_done(15).await;
        demo.publish(HELLOS);
        demo.is_done(17).await;

        let alive = done(demo.shell(Command::new("dispatcherctl").args(["alive", "--config", "dispatcher.yml"])));
        assert!(alive.code == 0 && alive.out.contains("node_id: demo"), "{alive:?}");
        service.signal(Signal::TERM);
        assert_eq!(service.ends().await, 0, "{:#?}", service.log());
        assert!(printed(&service, "hello world!!") >= 6, "{:#?}", service.log());
        assert_eq!(printed(&service, "slept 3 s"), 1);
        assert_eq!(printed(&service, "the service has started"), 1);
        demo.end().await;
    }
}

/// By a file that the environment names, and by the module's name from where the file lies.
#[tokio::test]
async fn a_publisher_without_settings_is_told_the_ways_and_the_variable_is_one() {
    let test = "a_publisher_without_settings_is_told_the_ways_and_the_variable_is_one";
    let Some(demo) = Demo::new(test).await else { return };
    let code = "from tools.test_methods import print_hello; print_hello.delay()";
    let mut start = command(demo.dir.path(), &["dispatcherd"]);
    demo.shell(&mut start)
        .current_dir(demo.dir.path().join("dispatcherd/tools"))
        .env("PYTHONPATH", demo.home())
        .env("DISPATCHERD_CONFIG_FILE", "../dispatcher.yml");
    let mut service = Running::spawn(&mut start);
    service.says("the service has started").await;

    let told = demo.python(&["-c", code]);
    assert!(
        told.code != 0 && told.err.contains("DISPATCHERD_CONFIG_FILE"),
        "{told:?}"
    );
    let mut python = Command::new("python");
    let bound = "from tools.test_methods import hello_by_id; hello_by_id.apply_async(uuid='by-the-variable')";
    let published = demo
        .shell(python.args(["-c", bound]))
        .env("DISPATCHERD_CONFIG_FILE", "dispatcher.yml");
    let published = done(published);

    assert_eq!(published.code, 0, "{published:?}");
    service.says("hello from by-the-variable").await;
    service.signal(Signal::TERM);
    assert_eq!(service.ends().await, 0, "{:#?}", service.log());
    demo.end().await;
}

/// What was written before the package had its name: `from dispatcher.publish import task`.
#[tokio::test]
async fn a_project_that_imports_the_former_name_runs_with_the_alias() {
    let Some(demo) = Demo::new("a_project_that_imports_the_former_name_runs_with_the_alias").await else {
        return;
    };
    let module = "from dispatcher.publish import task\n\n\
        @task(queue='test_channel')\ndef print_hello():\n    print('hello by the former name', flush=True)\n\n\
        @task(queue='test_channel', bind=True)\ndef confirm_start(dispatcher):\n    print('bound ' + dispatcher.uuid, flush=True)\n";
    std::fs::write(demo.home().join("tools/test_methods.py"), module).unwrap();
    let mut start = command(&demo.home(), &["dispatcherd"]);
    let mut service = Running::spawn(demo.shell(&mut start).env("PYTHONPATH", "tools:alias"));

    // One registry: the worker knows that the task is bound.
    service.says("bound on-start-0").await;
    let code = "import dispatcherd.publish\nfrom dispatcher.config import setup\nimport dispatcher.publish\n\
        assert dispatcher.publish is dispatcherd.publish\nsetup(file_path='dispatcher.yml')\n\
        from test_methods import print_hello\nprint_hello.delay()\nprint_hello.apply_async(args=[], kwargs={})";
    let mut python = Command::new("python");
    let published = done(
        demo.shell(python.args(["-W", "error", "-c", code]))
            .env("PYTHONPATH", "tools:alias"),
    );

    assert_eq!(published.code, 0, "{published:?}");
    until("both hellos", async || {
        printed(&service, "hello by the former name") >= 2
    })
    .await;
    service.signal(Signal::TERM);
    assert_eq!(service.ends().await, 0, "{:#?}", service.log());
    demo.end().await;
}

/// `examples/dispatcherd.toml`, with the demo's modules.
#[tokio::test]
async fn the_example_runs_the_demos_tasks() {
    let Some(demo) = Demo::new("the_example_runs_the_demos_tasks").await else {
        return;
    };
    let config = demo.config();
    let [Host::Tcp(host)] = config.get_hosts() else {
        panic!("a host")
    };
    let password = String::from_utf8_lossy(config.get_password().unwrap_or_default()).into_owned();
    let user = config.get_user().unwrap_or("postgres");
    let url = format!(
        "postgres://{user}:{password}@{host}:{}/{}",
        config.get_ports()[0],
        demo.name
    );
    let mut run = command(demo.dir.path(), &["run", "dispatcherd.toml"]);
    demo.shell(&mut run)
        .current_dir(demo.dir.path())
        .env("PYTHONPATH", "dispatcherd/tools")
        .env("DATABASE_URL", url);
    let mut service = Running::spawn(&mut run);
    service.says("\"listening\"").await;

    // Once at the start, then by its schedule.
    until("runs by itself", async || printed(&service, "hello world!!") >= 2).await;
    demo.publish(HELLOS);

    demo.is_done(2).await;
    assert!(printed(&service, "hello world!!") >= 4, "{:#?}", service.log());
    let alive = done(demo.shell(&mut command(&demo.home(), &["ctl", "--json", "alive"])));
    assert_eq!(alive.json()[0]["node_id"], "demo", "{alive:?}");
    service.signal(Signal::TERM);
    assert_eq!(service.ends().await, 0, "{:#?}", service.log());
    demo.end().await;
}
