use std::time::UNIX_EPOCH;

use dispatch_core::{
    store::{Bloat, DeadLetters, Node, Positions, Queue, Rates, Reservations, Slots},
    telemetry::{Measured, Meter, Reading},
};
use tokio::time::{Instant, sleep};

use super::*;

/// A store with a server behind it, whose dead rows are as many as the seconds since the start.
#[derive(Debug)]
struct Served(MemoryStore, Instant);

#[async_trait::async_trait]
impl Store for Served {
    fn dead_letters(&self) -> &dyn DeadLetters {
        self.0.dead_letters()
    }
    fn reservations(&self) -> &dyn Reservations {
        self.0.reservations()
    }
    fn slots(&self) -> &dyn Slots {
        self.0.slots()
    }
    fn queue(&self) -> &dyn Queue {
        self.0.queue()
    }
    fn positions(&self) -> &dyn Positions {
        self.0.positions()
    }
    fn rates(&self) -> &dyn Rates {
        self.0.rates()
    }
    async fn probe(&self) -> Result<(), Error> {
        Ok(())
    }
    async fn bloat(&self) -> Result<Option<Bloat>, Error> {
        match self.1.elapsed().as_secs() {
            // Away for a while: what was seen last stays.
            30..60 => Err(Error::unavailable("away")),
            seconds => Ok(Some(Bloat {
                dead_rows: seconds,
                oldest_transaction: Duration::from_millis(7_500),
                held_transactions: 3,
            })),
        }
    }
    /// One node more each minute, and one that is dead.
    async fn nodes(&self) -> Result<Option<Vec<Node>>, Error> {
        let node = |alive| Node {
            name: "n".into(),
            host: "h".into(),
            process: "1-x".into(),
            started_at: UNIX_EPOCH,
            last_seen: UNIX_EPOCH,
            alive,
            held: 0,
        };
        let alive = usize::try_from(self.1.elapsed().as_secs() / 60).unwrap() + 1;
        Ok(Some([vec![node(false)], vec![node(true); alive]].concat()))
    }
}

fn of_the_store(meter: &Meter) -> Vec<(&'static str, i64)> {
    let gauge = |reading: &Reading| match reading.measured {
        Measured::Gauge(value) if reading.component == "store" => Some((reading.name, value)),
        _ => None,
    };
    meter.read().iter().filter_map(gauge).collect()
}

#[tokio::test(start_paused = true)]
async fn what_a_store_has_yet_to_clear_away_is_looked_at_each_30_s() {
    let store: Arc<dyn Store> = Arc::new(Served(MemoryStore::new(), Instant::now()));
    let built = pipeline(MemorySource::new(), &MemorySink::new()).store(store).build();
    let built = built.unwrap();
    let handle = built.handle();
    let run = tokio::spawn(built.run());
    let (mut dead, mut nodes) = (Vec::new(), Vec::new());

    for _ in 0..4 {
        sleep(Duration::from_secs(1)).await;
        dead.push(of_the_store(handle.meter())[0].1);
        nodes.push(of_the_store(handle.meter())[2].1);
        sleep(Duration::from_secs(29)).await;
    }

    let [_, held, _, oldest] = of_the_store(handle.meter())[..] else {
        panic!("{:?}", handle.meter().read())
    };
    assert_eq!(dead, [0, 0, 60, 90]);
    assert_eq!(nodes, [1, 1, 2, 2]);
    assert_eq!(
        (held, oldest),
        (
            ("dispatch_store_held_transactions", 3),
            ("dispatch_store_oldest_transaction_seconds", 7)
        )
    );
    handle.drain();
    run.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_clears_nothing_away_has_no_such_gauges() {
    let built = pipeline(MemorySource::new(), &MemorySink::new()).build().unwrap();
    let handle = built.handle();
    let run = tokio::spawn(built.run());

    sleep(Duration::from_secs(40)).await;

    assert_eq!(of_the_store(handle.meter()), []);
    handle.drain();
    run.await.unwrap().unwrap();
}
