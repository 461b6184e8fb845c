use tower::Layer as _;

use super::*;
use crate::{Settlement, layer::Stack, message::Envelope};

fn size_of_call<S: Service<Message>>(_: &S) -> usize {
    size_of::<S::Future>()
}

/// What the figure of `benches/memory.rs` is made of: who adds a word to one of these sees it here first.
#[test]
fn a_message_in_flight_stays_small() {
    let sink = tower::service_fn(|_: Message| std::future::ready(Ok::<_, Error>(Reply::default())));
    let bare = size_of_val(&sink.clone().call(Message::new("x")));

    let stack = size_of_call(&Stack::default().layers(&Arc::default()).layer(sink)) - bare;

    assert!(
        stack <= 208,
        "the layers take {stack} bytes around the sink's own future"
    );
    assert!(size_of::<Entry>() <= 120, "an entry takes {}", size_of::<Entry>());
    assert!(
        size_of::<Settlement>() <= 88,
        "a settlement takes {}",
        size_of::<Settlement>()
    );
    assert!(
        size_of::<Envelope>() <= 104,
        "a bare message takes {}",
        size_of::<Envelope>()
    );
}
