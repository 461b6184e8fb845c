//! Which components this binary has.

use dispatch_core::Registry;

/// Adds every source, sink and store that was compiled in, and for those that were not, what to do about it.
pub fn register(registry: &mut Registry) {
    dispatch_sources::register(registry);
    dispatch_sinks::register(registry);
    dispatch_store::register(registry);
    for (name, remedy, compiled_in) in FEATURES {
        if !compiled_in {
            registry.absent(name, remedy);
        }
    }
    for (name, words) in LATER {
        registry.absent(name, words);
    }
}

macro_rules! features {
    ($($name:literal),*) => {
        /// Each feature, how to get it, and whether this build has it. A feature is named as the `type` it brings.
        pub(crate) const FEATURES: [(&str, &str, bool); [$($name),*].len()] = [
            $(($name, concat!("build dispatch-cli with `--features ", $name, "`, or with `--features full`"), cfg!(feature = $name))),*
        ];
    };
}

features!(
    "command",
    "file",
    "http",
    "pg_notify",
    "postgres",
    "process",
    "queue",
    "redis",
    "schedule",
    "sqlite",
    "sqs",
    "sqsd_cron",
    "startup",
    "stdin",
    "stdout"
);

/// What files may name in the hope of it, and this version does not have.
const LATER: [(&str, &str); 6] = [
    ("amqp", "this version of dispatch has no `amqp`"),
    ("bigquery", "this version of dispatch has no `bigquery`"),
    ("lambda", "this version of dispatch has no `lambda`"),
    ("nats", "this version of dispatch has no `nats`"),
    ("nsq", "this version of dispatch has no `nsq`"),
    ("objects", "this version of dispatch has no `objects`"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_that_is_on_brings_its_type() {
        let mut registry = Registry::new();
        register(&mut registry);
        let known: Vec<_> = registry
            .sources()
            .chain(registry.sinks())
            .chain(registry.stores())
            .map(|component| component.name)
            .collect();

        for (name, _, compiled_in) in FEATURES {
            // What tests need may bring one that is off.
            assert!(known.contains(&name) || !compiled_in, "{name}");
        }
        for (name, _) in LATER {
            assert!(!known.contains(&name), "{name} is here: take it from the list");
        }
    }
}
