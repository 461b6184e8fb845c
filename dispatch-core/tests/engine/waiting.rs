//! What waits can be asked for and taken out by command, wherever it is on its way to the sink.

use std::{collections::BTreeSet, sync::atomic::Ordering::Relaxed, time::SystemTime};

use dispatch_core::{
    Commands, Received, Source as _,
    store::{Depth, Item, QueueSource},
    tasks::Listed,
    telemetry::Meter,
};

use super::{slow_claims::SlowClaims, *};

pub(super) fn task(id: &str) -> Item {
    let payload = format!(r#"{{"task": "app.work", "uuid": "{id}"}}"#);
    Item::of(&Message::with_id(id.to_owned(), payload))
}

pub(super) async fn ask(commands: &Commands, command: &str, data: &str) -> Listed {
    let mut listed = Listed::default();
    for answer in commands.ask(command, data).await {
        listed.add(&answer);
    }
    listed
}

pub(super) fn ids(texts: &[String]) -> BTreeSet<String> {
    let id = |text: &String| serde_json::from_str::<serde_json::Value>(text).unwrap()["uuid"].to_string();
    texts.iter().map(|text| id(text).trim_matches('"').to_owned()).collect()
}

async fn depth(store: &MemoryStore) -> Depth {
    store.queue().depth("q").await.unwrap()
}

struct Setup {
    store: Arc<MemoryStore>,
    commands: Commands,
    sink: MemorySink,
    run: tokio::task::JoinHandle<Result<Summary, Error>>,
    handle: dispatch_core::pipeline::Handle,
}

/// Two at the sink, two in the window, the rest in the store.
async fn crowded() -> Setup {
    let (store, commands) = (Arc::new(MemoryStore::new()), Commands::default());
    let mut items: Vec<_> = (0..10).map(|n| task(&format!("t{n}"))).collect();
    items.push(Item {
        run_at: Some(SystemTime::now() + Duration::from_secs(3_600)),
        ..task("later")
    });
    store.queue().enqueue("q", items).await.unwrap();
    let source = QueueSource::new(store.clone(), "q").answering(&commands, &Meter::default());
    let sink = MemorySink::slow(Duration::from_secs(10), |_| Ok(()));
    let pipeline = Pipeline::builder("test")
        .source(source)
        .sink(sink.clone())
        .store(store.clone())
        .commands(commands.clone())
        .concurrency(2)
        .prefetch(2)
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    sink.called(2).await;
    while depth(&store).await.leased < 4 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Setup {
        store,
        commands,
        sink,
        run,
        handle,
    }
}

#[tokio::test(start_paused = true)]
async fn each_message_that_waits_is_shown_once_and_can_be_taken_out() {
    let all = crowded().await;

    let waiting = ask(&all.commands, "waiting", "{}").await;
    let held = ask(&all.commands, "held", "{}").await;

    assert_eq!((waiting.queued.len(), waiting.delayed.len()), (6, 1), "{waiting:?}");
    assert_eq!((held.queued.len(), held.out.len()), (2, 2), "{held:?}");
    let known: BTreeSet<_> = [&waiting.queued, &waiting.delayed, &held.queued, &held.out]
        .into_iter()
        .flat_map(|texts| ids(texts))
        .collect();
    assert_eq!(known.len(), 11, "{known:?}");
    assert!(waiting.queued[0].contains(r#""channel": "q""#), "{waiting:?}");

    // One that is in the window, one that is in the store.
    let (inside, outside) = (ids(&held.queued), ids(&waiting.queued));
    let one = |ids: &BTreeSet<String>| format!(r#"{{"uuid": "{}"}}"#, ids.first().unwrap());
    let dropped = ask(&all.commands, "drop_held", &one(&inside)).await;
    assert_eq!(ids(&dropped.queued), inside.iter().take(1).cloned().collect());
    assert_eq!(ask(&all.commands, "drop_held", &one(&outside)).await, Listed::default());
    let withdrawn = ask(&all.commands, "withdraw", &one(&outside)).await;
    assert_eq!(ids(&withdrawn.queued), outside.iter().take(1).cloned().collect());

    // The rest, but what is at the sink; that is finished.
    ask(&all.commands, "withdraw", r#"{"task": "app.work"}"#).await;
    ask(&all.commands, "drop_held", "{}").await;
    all.sink.took(2).await;
    while depth(&all.store).await != Depth::default() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let received = all.commands.ask("received", "{}").await;
    all.handle.drain();
    let summary = all.run.await.unwrap().unwrap();

    let taken: BTreeSet<_> = all
        .sink
        .messages()
        .iter()
        .map(|message| message.id().to_string())
        .collect();
    assert_eq!(taken, ids(&held.out));
    assert_eq!(
        (all.sink.calls().len(), summary.dead_lettered, summary.delivered),
        (2, 0, 2)
    );
    assert_eq!(received, [summary.received.to_string()]);
}

#[tokio::test(start_paused = true)]
async fn what_was_given_to_the_sink_is_taken_out_unless_another_knows_it() {
    let all = crowded().await;
    let mut out = ids(&ask(&all.commands, "held", "{}").await.out);
    ask(&all.commands, "withdraw", "{}").await;
    ask(&all.commands, "drop_held", "{}").await;
    let known = out.pop_first().unwrap();

    let data = format!(r#"{{"filter": {{"task": "app.work"}}, "but": ["{known}"]}}"#);
    let dropped = ask(&all.commands, "drop_out", &data).await;

    assert_eq!(ids(&dropped.out), out);
    all.sink.took(1).await;
    while depth(&all.store).await != Depth::default() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    all.handle.drain();
    assert_eq!(all.run.await.unwrap().unwrap().delivered, 1);
    assert_eq!(all.sink.messages()[0].id().as_str(), known);
}

/// The head of an ordered lane has failed and rests in the window; two wait behind it.
async fn with_a_resting_head() -> Setup {
    let (store, commands) = (Arc::new(MemoryStore::new()), Commands::default());
    let items = ["head", "second", "third"].map(|id| Item {
        key: Some("k".into()),
        ..task(id)
    });
    store.queue().enqueue("q", items.into()).await.unwrap();
    let sink = MemorySink::answering(|message| match (message.id().as_str(), message.attempt) {
        ("head", 1) => no("not yet"),
        _ => Ok(()),
    });
    let pipeline = Pipeline::builder("test")
        .source(QueueSource::new(store.clone(), "q").answering(&commands, &Meter::default()))
        .sink(sink.clone())
        .store(store.clone())
        .commands(commands.clone())
        .lanes(super::lanes::by_key(true))
        .retry(every(Duration::from_secs(3_600)))
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    sink.called(1).await;
    while ask(&commands, "held", "{}").await.delayed.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Setup {
        store,
        commands,
        sink,
        run,
        handle,
    }
}

/// Of a lane: who is cancelled, and who is then done.
#[tokio::test(start_paused = true)]
async fn what_rests_or_waits_in_an_ordered_lane_is_taken_out_and_the_rest_goes_on_in_order() {
    for (cancelled, goes_on) in [
        (&["head"][..], &["second", "third"][..]),
        (&["second"], &["head", "third"]),
        (&["second", "third"], &["head"]),
        (&["third", "head"], &["second"]),
        (&["third", "second", "head"], &[]),
    ] {
        let all = with_a_resting_head().await;
        let held = ask(&all.commands, "held", "{}").await;
        assert_eq!(ids(&held.delayed), ["head".to_owned()].into());
        assert_eq!(ids(&held.queued), ["second", "third"].map(str::to_owned).into());

        for id in cancelled {
            let dropped = ask(&all.commands, "drop_held", &format!(r#"{{"uuid": "{id}"}}"#)).await;
            let dropped = [dropped.delayed, dropped.queued].concat();
            assert_eq!(ids(&dropped), [(*id).to_owned()].into(), "{cancelled:?}");
        }
        while depth(&all.store).await != Depth::default() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }

        let took: Vec<_> = all
            .sink
            .messages()
            .iter()
            .map(|message| message.id().to_string())
            .collect();
        assert_eq!(took, goes_on, "{cancelled:?}");
        let attempts: u32 = all.sink.calls().values().sum();
        assert_eq!(attempts as usize, 1 + goes_on.len(), "{cancelled:?}");
        all.handle.drain();
        let summary = all.run.await.unwrap().unwrap();
        assert_eq!((summary.delivered, summary.dead_lettered), (goes_on.len() as u64, 0));
    }
}

/// The same where the source keeps the order: a head that waits for long rests in the store, and holds its followers back there.
#[tokio::test]
async fn a_head_that_rests_in_an_ordered_queue_is_taken_out_and_its_followers_go() {
    let (store, commands) = (Arc::new(MemoryStore::new()), Commands::default());
    let items = ["head", "second", "third"].map(|id| Item {
        key: Some("k".into()),
        ..task(id)
    });
    store.queue().enqueue("q", items.into()).await.unwrap();
    let sink = MemorySink::answering(|message| match message.id().as_str() {
        "head" => no("never"),
        _ => Ok(()),
    });
    let source = QueueSource::new(store.clone(), "q").ordered(true);
    let pipeline = Pipeline::builder("test")
        .source(source.answering(&commands, &Meter::default()))
        .sink(sink.clone())
        .store(store.clone())
        .commands(commands.clone())
        .retry(every(Duration::from_secs(3_600)))
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    sink.called(1).await;
    while depth(&store).await.leased > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    let waiting = ask(&commands, "waiting", "{}").await;
    let withdrawn = ask(&commands, "withdraw", r#"{"uuid": "head"}"#).await;

    assert_eq!(ids(&waiting.delayed), ["head".to_owned()].into());
    assert_eq!(ids(&waiting.blocked), ["second", "third"].map(str::to_owned).into());
    assert_eq!(ids(&withdrawn.delayed), ["head".to_owned()].into());
    let taking = sink.took(2);
    tokio::time::timeout(Duration::from_secs(60), taking).await.unwrap();
    let took: Vec<_> = sink.messages().iter().map(|message| message.id().to_string()).collect();
    assert_eq!(took, ["second", "third"]);
    handle.drain();
    assert_eq!(run.await.unwrap().unwrap().delivered, 2);
    assert_eq!(depth(&store).await, Depth::default());
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_a_withdrawal_overtakes_brings_nothing_that_was_withdrawn() {
    let (store, commands) = (Arc::new(SlowClaims::new(0)), Commands::default());
    let mut source = QueueSource::new(store.clone(), "q").answering(&commands, &Meter::default());
    let receive = tokio::spawn(async move {
        let received = source.receive(9).await.unwrap();
        (source, received)
    });
    while store.waiting.load(Relaxed) == 0 {
        tokio::task::yield_now().await;
    }

    // Not to be seen in the store, as what a claim has taken that is not back yet.
    let withdrawn = ask(&commands, "withdraw", r#"{"uuid": "two"}"#).await;
    let items = ["one", "two", "three"].map(task);
    store.queue().enqueue("q", items.into()).await.unwrap();
    store.permits.add_permits(1);
    let (_source, received) = receive.await.unwrap();

    assert_eq!(withdrawn, Listed::default());
    let Received::Batch(batch) = received else {
        panic!("{received:?}")
    };
    let got: Vec<_> = batch.iter().map(|delivery| delivery.message.id().as_str()).collect();
    assert_eq!(got, ["one", "three"]);
    while store.queue().depth("q").await.unwrap().leased > 2 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_claimed_and_not_asked_for_yet_is_shown_and_taken_out() {
    let (store, commands) = (Arc::new(MemoryStore::new()), Commands::default());
    let items = ["one", "two", "three"].map(task);
    store.queue().enqueue("q", items.into()).await.unwrap();
    let mut source = QueueSource::new(store.clone(), "q").answering(&commands, &Meter::default());
    {
        let mut receive = std::pin::pin!(source.receive(9));
        assert!(futures::poll!(&mut receive).is_pending());
    }
    while depth(&store).await.leased < 3 {
        tokio::task::yield_now().await;
    }
    tokio::task::yield_now().await;

    let waiting = ask(&commands, "waiting", "{}").await;
    let withdrawn = ask(&commands, "withdraw", r#"{"uuid": "two"}"#).await;
    let received = source.receive(9).await.unwrap();

    assert_eq!(ids(&waiting.queued), ["one", "two", "three"].map(str::to_owned).into());
    assert_eq!(ids(&withdrawn.queued), ["two".to_owned()].into());
    let Received::Batch(batch) = received else {
        panic!("{received:?}")
    };
    let got: Vec<_> = batch.iter().map(|delivery| delivery.message.id().as_str()).collect();
    assert_eq!((got, depth(&store).await.leased), (vec!["one", "three"], 2));
}
