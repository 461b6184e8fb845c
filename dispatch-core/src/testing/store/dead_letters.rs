use std::time::{Duration, SystemTime};

use super::*;
use crate::store::{DeadLetter, DeadLetterFilter};

pub(super) async fn battery(store: &dyn Store) {
    a_letter_comes_out_as_it_went_in(store).await;
    burying_twice_leaves_one(store).await;
    letters_are_listed_in_pages_oldest_first(store).await;
    every_filter_filters(store).await;
    a_letter_is_replayed_exactly_once(store).await;
    a_replayed_letter_and_its_next_death_are_two(store).await;
    a_purge_takes_what_matches(store).await;
}

pub(super) fn letter(pipeline: &str, id: &str) -> DeadLetter {
    let now = whole_micros(SystemTime::now());
    DeadLetter {
        number: 0,
        pipeline: pipeline.into(),
        source: "source".into(),
        id: id.into(),
        payload: (0..=255).collect::<Vec<u8>>().into(),
        headers: raw_headers(),
        metadata: raw_headers(),
        key: Some("key".into()),
        reason: "exhausted".into(),
        attempts: vec![
            attempt(1, &Error::retry("first").with_code("500")),
            attempt(2, &Error::permanent("last").with_code("404")),
        ],
        trace_id: Some("0af7651916cd43dd8448eb211c80319c".into()),
        config_hash: "abc".into(),
        created_at: now - Duration::from_secs(9),
        died_at: now,
        replayed_at: None,
    }
}

pub(super) fn of(pipeline: &str) -> DeadLetterFilter {
    DeadLetterFilter {
        pipeline: Some(pipeline.into()),
        ..DeadLetterFilter::default()
    }
}

async fn bury(store: &dyn Store, letters: Vec<DeadLetter>) {
    store
        .dead_letters()
        .bury(letters)
        .await
        .expect("a working store keeps dead letters");
}

pub(super) async fn list(store: &dyn Store, filter: &DeadLetterFilter) -> Vec<DeadLetter> {
    store
        .dead_letters()
        .list(filter, 0, 1000)
        .await
        .expect("a working store lists dead letters")
}

async fn replay(store: &dyn Store, numbers: &[u64], queue: &str) -> u64 {
    store
        .dead_letters()
        .replay(numbers, queue)
        .await
        .expect("a working store replays dead letters")
}

async fn a_letter_comes_out_as_it_went_in(store: &dyn Store) {
    let pipeline = name("letter");
    let mut sent = letter(&pipeline, "a");
    bury(store, vec![sent.clone()]).await;

    let kept = list(store, &of(&pipeline)).await;

    same(kept.len(), 1, "a dead letter is kept");
    assert!(kept[0].number > 0, "a kept dead letter has a number");
    sent.number = kept[0].number;
    same(&kept[0], &sent, "a dead letter comes out byte for byte as it went in");
}

async fn burying_twice_leaves_one(store: &dyn Store) {
    let pipeline = name("twice");
    let first = letter(&pipeline, "a");
    let second = DeadLetter {
        reason: "deadline".into(),
        ..first.clone()
    };

    bury(store, vec![first.clone(), letter(&pipeline, "b")]).await;
    bury(store, vec![second]).await;
    let kept = list(store, &of(&pipeline)).await;

    same(kept.len(), 2, "burying a message again does not add a letter");
    let again = kept
        .iter()
        .find(|letter| letter.id == "a")
        .map(|letter| letter.reason.as_str());
    same(
        again,
        Some("deadline"),
        "the later burial takes the earlier one's place",
    );
}

async fn letters_are_listed_in_pages_oldest_first(store: &dyn Store) {
    let pipeline = name("pages");
    let ids: Vec<String> = (0..7).map(|number| number.to_string()).collect();
    bury(store, ids.iter().map(|id| letter(&pipeline, id)).collect()).await;

    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let page = store.dead_letters().list(&of(&pipeline), after, 3).await;
        let page = page.expect("a working store lists dead letters");
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 3, "a page holds no more than was asked for");
        after = last.number;
        seen.extend(page.into_iter().map(|letter| letter.id.to_string()));
    }

    same(seen, ids, "pages show every letter once, oldest first");
}

async fn every_filter_filters(store: &dyn Store) {
    let pipeline = name("filter");
    let now = whole_micros(SystemTime::now());
    let one = letter(&pipeline, "one");
    let mut two = letter(&pipeline, "two");
    two.reason = "permanent".into();
    two.attempts.truncate(1);
    two.died_at = now - LONG;
    let mut three = letter(&pipeline, "three");
    three.attempts.clear();
    three.died_at = now - LONG * 2;
    bury(store, vec![one, two, three]).await;
    let all = list(store, &of(&pipeline)).await;
    let number = all[1].number;

    let base = of(&pipeline);
    let cases = [
        (
            "numbers",
            DeadLetterFilter {
                numbers: vec![number],
                ..base.clone()
            },
        ),
        (
            "class",
            DeadLetterFilter {
                class: Some("permanent".into()),
                ..base.clone()
            },
        ),
        (
            "code",
            DeadLetterFilter {
                code: Some("500".into()),
                ..base.clone()
            },
        ),
        (
            "reason",
            DeadLetterFilter {
                reason: Some("exhausted".into()),
                ..base.clone()
            },
        ),
        (
            "since",
            DeadLetterFilter {
                since: Some(now - LONG),
                ..base.clone()
            },
        ),
        (
            "until",
            DeadLetterFilter {
                until: Some(now - LONG),
                ..base.clone()
            },
        ),
        (
            "nothing",
            DeadLetterFilter {
                code: Some("none such".into()),
                ..base.clone()
            },
        ),
    ];
    for (what, filter) in cases {
        let expected: Vec<_> = all.iter().filter(|letter| filter.matches(letter)).cloned().collect();
        let counted = store
            .dead_letters()
            .count(&filter)
            .await
            .expect("a working store counts dead letters");
        same(
            list(store, &filter).await,
            expected.clone(),
            &format!("the filter `{what}` lists what it matches"),
        );
        same(
            counted,
            expected.len() as u64,
            &format!("the filter `{what}` counts what it matches"),
        );
    }
}

async fn a_letter_is_replayed_exactly_once(store: &dyn Store) {
    let (pipeline, queue) = (name("replay"), name("replay-queue"));
    bury(store, ["a", "b", "c"].map(|id| letter(&pipeline, id)).into()).await;
    let numbers: Vec<u64> = list(store, &of(&pipeline))
        .await
        .iter()
        .map(|letter| letter.number)
        .collect();

    let at_once = futures::future::join_all((0..4).map(|_| replay(store, &numbers[..2], &queue))).await;
    let later = replay(store, &numbers, &queue).await;
    let claimed = take(store, &queue, 10).await;

    same(
        at_once.iter().sum::<u64>(),
        2,
        "among replays at the same time each letter goes once",
    );
    same(later, 1, "a replay passes over what was replayed before");
    let mut ids: Vec<_> = claimed.iter().map(|claimed| claimed.item.id.as_str()).collect();
    ids.sort_unstable();
    same(ids, vec!["a", "b", "c"], "every replayed letter is in the queue once");
    let original = letter(&pipeline, "a");
    let item = &claimed[0].item;
    same(
        (&item.payload, &item.headers),
        (&original.payload, &original.headers),
        "a replay changes no byte",
    );
    same(
        (item.attempts, item.history.len()),
        (0, 2),
        "a replay forgets attempts and keeps history",
    );
    same(
        list(store, &of(&pipeline)).await.len(),
        0,
        "replayed letters are no longer listed",
    );
    let with_replayed = DeadLetterFilter {
        with_replayed: true,
        ..of(&pipeline)
    };
    let marked = list(store, &with_replayed).await;
    same(
        marked.iter().filter(|letter| letter.replayed_at.is_some()).count(),
        3,
        "replayed letters are marked",
    );
}

async fn a_replayed_letter_and_its_next_death_are_two(store: &dyn Store) {
    let (pipeline, queue) = (name("again"), name("again-queue"));
    bury(store, vec![letter(&pipeline, "a")]).await;
    let number = list(store, &of(&pipeline)).await[0].number;
    same(replay(store, &[number], &queue).await, 1, "a letter can be replayed");

    bury(store, vec![letter(&pipeline, "a")]).await;

    same(
        list(store, &of(&pipeline)).await.len(),
        1,
        "a message that dies again after its replay is a new letter",
    );
    let with_replayed = DeadLetterFilter {
        with_replayed: true,
        ..of(&pipeline)
    };
    same(
        list(store, &with_replayed).await.len(),
        2,
        "the replayed letter is kept beside the new one",
    );
}

async fn a_purge_takes_what_matches(store: &dyn Store) {
    let pipeline = name("purge");
    let kept = DeadLetter {
        reason: "permanent".into(),
        ..letter(&pipeline, "kept")
    };
    bury(store, vec![letter(&pipeline, "a"), letter(&pipeline, "b"), kept]).await;

    let filter = DeadLetterFilter {
        reason: Some("exhausted".into()),
        ..of(&pipeline)
    };
    let purged = store
        .dead_letters()
        .purge(&filter)
        .await
        .expect("a working store purges dead letters");

    same(purged, 2, "a purge says how many letters it took");
    same(
        list(store, &of(&pipeline)).await.len(),
        1,
        "a purge leaves what does not match",
    );
}
