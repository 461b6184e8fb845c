//! The source `pg_notify` while its server is away: at the start, and for long.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use dispatch_core::config::{Secret, SourceConfig as _};
use tokio::time::{Instant, timeout};

use super::{pg_notify::Server, *};

/// Stands before the server, and closes every connection until the server is `up`.
struct Door {
    dsn: String,
    tries: Arc<std::sync::Mutex<Vec<Instant>>>,
    up: Arc<std::sync::atomic::AtomicBool>,
}

impl Door {
    async fn before(server: &Server) -> Self {
        let config: tokio_postgres::Config = server.dsn.parse().unwrap();
        let [tokio_postgres::config::Host::Tcp(host)] = config.get_hosts() else {
            panic!("a host")
        };
        let to = (host.clone(), config.get_ports()[0]);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tries, up) = (Arc::default(), Arc::default());
        let door = Self {
            dsn: server.dsn_at(port),
            tries: Arc::clone(&tries),
            up: Arc::clone(&up),
        };
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tries.lock().unwrap().push(Instant::now());
                if up.load(SeqCst) {
                    let mut server = tokio::net::TcpStream::connect((to.0.as_str(), to.1)).await.unwrap();
                    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
                }
            }
        });
        door
    }

    fn tries(&self) -> Vec<Instant> {
        self.tries.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn a_server_that_is_away_at_the_start_is_tried_ever_less_often_until_it_is_there() {
    let test = "a_server_that_is_away_at_the_start_is_tried_ever_less_often_until_it_is_there";
    let Some(server) = Server::find(test).await else {
        return;
    };
    let door = Door::before(&server).await;
    let mut config = server.config();
    config.dsn = Some(Secret::new(door.dsn.as_str()));
    config.reconnect.base.0 = Duration::from_millis(20);
    config.reconnect.max.0 = Duration::from_millis(160);
    let directory = tempfile::tempdir().unwrap();
    config.control.socket = Some(directory.path().join("dispatch.sock"));
    let mut source = config.build(&context(Path::new("."), memory())).unwrap();
    let mut health = Vec::new();

    let tried = timeout(Duration::from_secs(60), async {
        while door.tries().len() < 14 {
            if let Ok(Ok(Received::Health(now))) = timeout(Duration::from_millis(10), source.receive(1)).await {
                health.push(now.map(|error| error.report()));
            }
        }
    });
    tried.await.expect("it is tried for ever");

    // A random part of 20, 40, 80 and then of 160 ms each: slower machines wait longer, and none so short.
    let tries = door.tries();
    let waits: Vec<_> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(tries[13] - tries[0] >= Duration::from_millis(250), "{waits:?}");
    assert!(waits.iter().max() > waits.iter().min(), "{waits:?}");
    assert!(!health.is_empty() && health.iter().all(Option::is_some), "{health:?}");
    // What needs no server goes on meanwhile.
    let mut wire = super::pg_notify::Wire::to(&directory.path().join("dispatch.sock")).await;
    wire.write(&[
        r#"{"task": "a.b", "uuid": "meanwhile"}"#,
        r#"{"control": "aio_tasks", "reply_to": "me"}"#,
    ])
    .await;
    let one = super::pg_notify::next(&mut *source).await;
    assert_eq!(one.message.id(), "meanwhile");
    ack(one).await;
    let tasks = wire.answer().await;
    let why = tasks["listener"]["stack"].as_str().unwrap();
    assert!(
        tasks["listener"]["done"] == true && why.contains("127.0.0.1"),
        "{tasks}"
    );

    door.up.store(true, SeqCst);
    let heard = timeout(Duration::from_secs(20), async {
        loop {
            server.publish(r#"{"task": "a.b", "uuid": "heard"}"#).await;
            match timeout(Duration::from_millis(50), source.receive(1)).await {
                Ok(Ok(Received::Batch(batch))) => return batch,
                Ok(Ok(Received::Health(now))) => health.push(now.map(|error| error.report())),
                Ok(other) => panic!("{other:?}"),
                Err(_) => {}
            }
        }
    });
    assert_eq!(heard.await.expect("it hears")[0].message.id(), "heard");
    // What came in the moment of listening is handed out before it is said to be well.
    let well = timeout(Duration::from_secs(20), async {
        while health.last() != Some(&None) {
            match source.receive(1).await.unwrap() {
                Received::Health(now) => health.push(now.map(|error| error.report())),
                Received::Batch(batch) => drop(batch),
                Received::End => panic!("a listener has no end"),
            }
        }
    });
    assert!(well.await.is_ok(), "{health:?}");
}
