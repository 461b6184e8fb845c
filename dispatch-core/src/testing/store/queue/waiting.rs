//! What waits can be seen, page by page.

use super::super::*;

use crate::store::{Look, Page, Place, Waiting};

pub(super) async fn battery(store: &dyn Store) {
    what_waits_is_seen_in_the_order_of_claims(store).await;
    pages_show_each_item_once(store).await;
    who_is_not_due_or_behind_another_is_seen_as_such(store).await;
    a_look_for_texts_shows_what_may_hold_them(store).await;
}

async fn see(store: &dyn Store, queue: &str, look: Look) -> Page {
    let page = store.queue().waiting(queue, look).await;
    page.expect("a working store shows what waits")
}

/// All that waits, by pages of `max`.
pub(super) async fn see_all(store: &dyn Store, queue: &str, max: usize) -> Vec<Waiting> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let look = Look {
            after,
            max,
            ..Look::default()
        };
        let page = see(store, queue, look).await;
        assert!(page.items.len() <= max, "a page holds no more than was asked for");
        all.extend(page.items);
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}

pub(super) fn places(waiting: &[Waiting]) -> Vec<Place> {
    waiting.iter().map(|waiting| waiting.place).collect()
}

pub(super) fn ids(waiting: &[Waiting]) -> Vec<&str> {
    waiting.iter().map(|waiting| waiting.item.id.as_str()).collect()
}

pub(super) fn keyed(payload: &str, key: &'static str) -> Item {
    Item {
        key: Some(key.into()),
        ..item(payload)
    }
}

async fn what_waits_is_seen_in_the_order_of_claims(store: &dyn Store) {
    let (queue, other) = (name("see"), name("see-other"));
    let now = whole_micros(SystemTime::now());
    let with = |payload, priority, ago| Item {
        priority,
        run_at: Some(now - Duration::from_secs(ago)),
        ..item(payload)
    };
    let mut whole = with("whole", 5, 1);
    whole.payload = (0..=255).cycle().take(5000).collect::<Vec<u8>>().into();
    whole.headers = raw_headers();
    whole.metadata = raw_headers();
    whole.key = Some("a key".into());
    whole.dedupe = Some("once".into());
    whole.deadline = Some(whole_micros(now + LONG));
    whole.attempts = 3;
    whole.history = vec![attempt(3, &Error::retry("no").with_code("503"))];
    let items = vec![
        with("low", -1, 90),
        with("new", 0, 10),
        with("old", 0, 60),
        whole.clone(),
    ];
    same(
        see_all(store, &queue, 10).await,
        Vec::new(),
        "nothing waits in a queue that was never used",
    );

    put(store, &other, vec![item("elsewhere")]).await;
    put(store, &queue, items).await;
    let seen = see_all(store, &queue, 10).await;
    let again = see_all(store, &queue, 10).await;
    let claimed = take(store, &queue, 10).await;

    same(
        ids(&seen),
        vec!["whole", "old", "new", "low"],
        "what waits is seen in the order of claims, and that of its queue alone",
    );
    whole.run_at = seen[0].item.run_at;
    same(&seen[0].item, &whole, "an item is seen whole");
    same(again, seen.clone(), "to look changes nothing");
    same(
        seen.iter().map(|waiting| &waiting.item.id).collect::<Vec<_>>(),
        claimed.iter().map(|claimed| &claimed.item.id).collect(),
        "claims come in the order that was seen",
    );
    same(
        see_all(store, &queue, 10).await,
        Vec::new(),
        "what is leased waits no more",
    );
}

async fn pages_show_each_item_once(store: &dyn Store) {
    let queue = name("pages");
    let items = (0..23_u16).map(|number| Item {
        priority: i16::try_from(number % 3).unwrap_or_default(),
        ..item(&number.to_string())
    });
    put(store, &queue, items.collect()).await;

    let whole = see_all(store, &queue, 100).await;
    same(whole.len(), 23, "a page that is large enough shows all");
    for max in [1, 4, 7, 23] {
        same(
            places(&see_all(store, &queue, max).await),
            places(&whole),
            "pages together show what one large page shows",
        );
    }
    let mut sorted = places(&whole);
    sorted.sort();
    same(sorted, places(&whole), "places are ordered as claims are");
}

async fn who_is_not_due_or_behind_another_is_seen_as_such(store: &dyn Store) {
    let queue = name("see-why");
    let mut later = item("later");
    later.run_at = Some(SystemTime::now() + LONG);
    put(store, &queue, vec![keyed("a1", "a"), keyed("b1", "b")]).await;
    let leased = take(store, &queue, 1).await;
    put(
        store,
        &queue,
        vec![keyed("a2", "a"), keyed("b2", "b"), later, item("free")],
    )
    .await;

    let mut seen = see_all(store, &queue, 10).await;
    seen.sort_by(|one, two| one.item.id.cmp(&two.item.id));

    same(payloads(&leased), vec!["a1".to_owned()], "the oldest goes first");
    let why: Vec<_> = seen
        .iter()
        .map(|waiting| (waiting.item.id.as_str(), waiting.due, waiting.behind))
        .collect();
    same(
        why,
        vec![
            ("a2", true, true),
            ("b1", true, false),
            ("b2", true, true),
            ("free", true, false),
            ("later", false, false),
        ],
        "who waits for his time or for an older one of his key, leased or not, is told from who waits for his turn",
    );
}

async fn a_look_for_texts_shows_what_may_hold_them(store: &dyn Store) {
    let queue = name("holding");
    let with = |id: &str, payload: &[u8]| Item {
        payload: Bytes::copy_from_slice(payload),
        ..item(id)
    };
    let items = vec![
        with("one", br#"{"task": "app.add", "uuid": "7"}"#),
        with("two", br#"{"task": "app.sub", "uuid": "8"}"#),
        with("escaped", br#"{"task": "app.\u0061dd"}"#),
        with("raw", b"\xff\x00app.add\xfe"),
        with("empty", b""),
        with("caf\u{e9}", b"app.add"),
    ];
    put(store, &queue, items.clone()).await;
    for texts in [
        vec![],
        vec!["app.add"],
        vec!["one"],
        vec!["app.add", "7"],
        vec!["app.add", "two"],
        vec!["caf\u{e9}"],
        vec!["\u{e9}"],
        vec![""],
        vec!["100%", "_"],
    ] {
        let holding: Vec<_> = texts.iter().map(|text| Bytes::from(*text)).collect();
        let look = Look {
            max: 100,
            holding,
            ..Look::default()
        };
        let expected: Vec<_> = items
            .iter()
            .filter(|item| look.shows(item))
            .map(|item| &*item.id)
            .collect();

        let page = see(store, &queue, look.clone()).await;

        let mut found = ids(&page.items);
        found.sort_by_key(|id| items.iter().position(|item| item.id == *id));
        same(
            found,
            expected,
            &format!("a look for {texts:?} shows what `Look::shows` says"),
        );
        same(page.next, None, "the end was seen");
    }
    let none = Look {
        max: 2,
        holding: vec![Bytes::from_static(b"two")],
        ..Look::default()
    };
    let (mut after, mut found, mut pages) = (None, Vec::new(), 0);
    loop {
        let page = see(store, &queue, Look { after, ..none.clone() }).await;
        found.extend(page.items.into_iter().map(|waiting| waiting.item.id));
        pages += 1;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    found.sort();
    assert!(
        pages >= 3,
        "a page ends when so many were looked at, not shown: {pages} pages"
    );
    same(
        found,
        vec!["escaped".into(), "two".into()],
        "who looks on behind an empty page finds the rest",
    );
}
