//! The commands that a pipeline answers about what its drivers hold.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
};

use super::{
    control::Shared,
    visit::{Take, Wanted},
};
use crate::tasks::{Listed, json};

/// Answers commands from now on: `held` and `drop_held` about what waits in the window, `drop_out` about what the sink was
/// given and does not know itself.
pub(super) fn answer(shared: &Arc<Shared>) {
    for (command, take) in [("held", Take::Nothing), ("drop_held", Take::Waiting)] {
        let shared_by = Arc::downgrade(shared);
        shared.commands.on(command, move |data| {
            ask(shared_by.clone(), Wanted::read(data, BTreeSet::new(), take))
        });
    }
    let shared_by = Arc::downgrade(shared);
    shared.commands.on("drop_out", move |data| {
        let members = json::members(&data).ok().flatten().unwrap_or_default();
        let given = |name: &str| {
            members
                .iter()
                .find(|(key, _)| key == name)
                .map_or("{}", |(_, raw)| *raw)
        };
        let but = serde_json::from_str(given("but")).unwrap_or_default();
        ask(
            shared_by.clone(),
            Wanted::read(given("filter").to_owned(), but, Take::Out),
        )
    });
}

async fn ask(shared: Weak<Shared>, wanted: Wanted) -> String {
    let Some(shared) = shared.upgrade() else {
        return Listed::default().text();
    };
    shared.roll.visit(wanted).await.listed().text()
}
