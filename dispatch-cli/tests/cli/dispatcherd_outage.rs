//! The preset `dispatcherd` while its server is away, and what its metrics count.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

use rustix::process::Signal;
use tokio::net::{TcpListener, TcpStream};

use crate::{
    dispatcherd::Project,
    support::{Running, get, until},
};

/// Stands before the server, and closes every connection until the server is `up`.
struct Door {
    tries: Arc<AtomicUsize>,
    up: Arc<AtomicBool>,
}

impl Door {
    /// The service, not the publishers, comes by it: `away.yml` is the project's file with the door in it.
    async fn before(project: &Project) -> Self {
        let url = std::env::var("DISPATCH_TEST_POSTGRES_URL").unwrap();
        let config: tokio_postgres::Config = url.parse().unwrap();
        let [tokio_postgres::config::Host::Tcp(host)] = config.get_hosts() else {
            panic!("a host")
        };
        let to = format!("{host}:{}", config.get_ports()[0]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap().to_string();
        let text = std::fs::read_to_string(project.path().join("dispatcher.yml")).unwrap();
        assert!(text.contains(&to), "{to}");
        std::fs::write(project.path().join("away.yml"), text.replace(&to, &here)).unwrap();
        let door = Self {
            tries: Arc::default(),
            up: Arc::default(),
        };
        let (tries, up) = (Arc::clone(&door.tries), Arc::clone(&door.up));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tries.fetch_add(1, SeqCst);
                if up.load(SeqCst) {
                    let mut server = TcpStream::connect(&to).await.unwrap();
                    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
                }
            }
        });
        door
    }

    async fn tried(&self, times: usize) {
        until(&format!("{times} tries"), async || self.tries.load(SeqCst) >= times).await;
    }
}

const ON_START: &str = "producers:
  OnStartProducer:
    task_list:
      my_tasks.add: {args: [500], kwargs: {b: 1}}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_at_the_start_is_waited_for() {
    let Some(project) = Project::new("a_server_that_is_away_at_the_start_is_waited_for", ON_START) else {
        return;
    };
    let door = Door::before(&project).await;
    let mut service = started(&project).await;
    // What needs no server is done meanwhile.
    project.noted("501").await;
    door.tried(4).await;
    assert!(!service.log().iter().any(|line| line.contains("\"listening")));

    door.up.store(true, SeqCst);
    service.says("listening again").await;
    project.publish("add.delay(20, b=3)");

    project.noted("23").await;
    service.signal(Signal::TERM);
    assert_eq!(service.ends().await, 0, "{:#?}", service.log());
    assert_eq!(project.notes(), ["501", "23"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_it_while_the_server_is_away() {
    for signal in [Signal::TERM, Signal::INT] {
        let Some(project) = Project::new("a_signal_ends_it_while_the_server_is_away", ON_START) else {
            return;
        };
        let door = Door::before(&project).await;
        let mut service = started(&project).await;
        project.noted("501").await;
        door.tried(3).await;

        service.signal(signal);

        assert_eq!(service.ends().await, 0, "{:#?}", service.log());
    }
}

async fn started(project: &Project) -> Running {
    project
        .start_and_hear(&["--config", "away.yml"], "source has no broker yet")
        .await
}

#[tokio::test]
async fn the_originals_metrics_count() {
    let Some(project) = Project::new("the_originals_metrics_count", "") else {
        return;
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let file = project.path().join("dispatcher.yml");
    let metrics = format!("service:\n  metrics_kwargs: {{port: {port}, host: 127.0.0.1}}\n");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("service:\n", &metrics)).unwrap();
    let mut service = project.start(&[]).await;
    service.says("metrics are served").await;
    let counted = async |name: &str| {
        let (_, text) = get(&format!("http://127.0.0.1:{port}/metrics")).await;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        value.unwrap_or_else(|| panic!("{name}: {text}"))
    };
    let all = async || {
        (
            counted("dispatcher_messages_received_total ").await,
            counted("dispatcher_control_messages_count_total ").await,
        )
    };
    assert_eq!(all().await, (0, 0));

    project.publish("add.delay(1); add.delay(2); fail.delay()");
    for note in ["1", "2"] {
        project.noted(note).await;
    }
    for _ in 0..2 {
        assert_eq!(project.ctl(&["alive"]).code, 0);
    }

    until("all are counted", async || all().await == (5, 2)).await;
    until("workers are counted", async || {
        (1..=2).contains(&counted("dispatcher_worker_count_total ").await)
    })
    .await;
    service.signal(Signal::TERM);
    assert_eq!(service.ends().await, 0);
}
