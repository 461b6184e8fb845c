//! Sinks and what holds several of them: `route`, `fanout`, `fallback`.

use std::{collections::HashMap, sync::Arc};

use smol_str::SmolStr;
use toml::de::DeValue;

use super::{
    BuildContext, Diagnostic,
    component_table::{Places, component},
    diagnose::Sources,
    read::{Reader, Value, remove},
};
use crate::{
    Fallback, Fanout, Route, Selector, Sink,
    registry::{Builder, Registry},
};

/// A sink as it was read, to be built when its surroundings are known.
pub(super) enum SinkPlan {
    One(Builder<BuildContext, Arc<dyn Sink>>, Places),
    Route {
        by: Selector,
        routes: Vec<(SmolStr, Self)>,
        default: Option<Box<Self>>,
    },
    Fanout(Vec<Self>),
    Fallback(Vec<Self>),
}

/// The sinks that hold others, with one line each.
pub(super) const HOLDERS: [(&str, &str); 3] = [
    ("route", "one of several sinks, chosen by a field of the message"),
    ("fanout", "several sinks at once, all of which must take the message"),
    ("fallback", "the first of several sinks that takes the message"),
];

impl SinkPlan {
    pub(super) fn read<'i>(registry: &Registry, value: Value<'i>, reader: &mut Reader<'i>) -> Option<Self> {
        match value.get_ref().get("type").and_then(|kind| kind.get_ref().as_str()) {
            Some("route") => Self::read_route(registry, value, reader),
            Some("fanout") => Self::read_list(registry, value, reader).map(Self::Fanout),
            Some("fallback") => Self::read_list(registry, value, reader).map(Self::Fallback),
            _ => {
                let (_, builder, places) = component(&registry.sinks, &registry.absent, "sink", value, reader)?;
                Some(Self::One(builder, places))
            }
        }
    }

    fn read_route<'i>(registry: &Registry, value: Value<'i>, reader: &mut Reader<'i>) -> Option<Self> {
        let span = value.span();
        let DeValue::Table(mut table) = value.into_inner() else {
            return None;
        };
        remove(&mut table, "type");
        let by = remove(&mut table, "by").map(|(_, value)| reader.read::<Selector>(value));
        let default = remove(&mut table, "default").map(|(_, value)| Self::read(registry, value, reader));
        let routes = remove(&mut table, "routes");
        refuse_rest(&table, &["by", "routes", "default"], reader);
        if by.is_none() {
            let diagnostic = reader
                .sources
                .error(span.clone(), "`by` is missing")
                .label("in this table")
                .help("by = \"header:kind\" chooses by a header");
            reader.error(diagnostic);
        }
        let mut all = Vec::new();
        match routes.map(|(_, value)| (value.span(), value.into_inner())) {
            Some((_, DeValue::Table(routes))) if !routes.is_empty() => {
                for (name, value) in routes {
                    all.push((
                        SmolStr::from(name.get_ref().as_ref()),
                        Self::read(registry, value, reader),
                    ));
                }
            }
            _ => {
                let diagnostic = reader
                    .sources
                    .error(span, "`routes` is missing")
                    .label("in this table")
                    .help("routes.NAME = { type = \"…\" } for each value of the field");
                reader.error(diagnostic);
                return None;
            }
        }
        let routes = all
            .into_iter()
            .map(|(name, plan)| Some((name, plan?)))
            .collect::<Option<Vec<_>>>();
        let default = match default {
            Some(plan) => Some(Box::new(plan?)),
            None => None,
        };
        Some(Self::Route {
            by: by??,
            routes: routes?,
            default,
        })
    }

    fn read_list<'i>(registry: &Registry, value: Value<'i>, reader: &mut Reader<'i>) -> Option<Vec<Self>> {
        let span = value.span();
        let DeValue::Table(mut table) = value.into_inner() else {
            return None;
        };
        remove(&mut table, "type");
        let sinks = remove(&mut table, "sinks").map(|(_, value)| value.into_inner());
        refuse_rest(&table, &["sinks"], reader);
        let Some(DeValue::Array(sinks)) = sinks.filter(|sinks| sinks.as_array().is_some_and(|sinks| !sinks.is_empty()))
        else {
            let diagnostic = reader
                .sources
                .error(span, "`sinks` is missing")
                .label("in this table")
                .help("sinks = [{ type = \"…\" }, { type = \"…\" }]");
            reader.error(diagnostic);
            return None;
        };
        let plans: Vec<_> = sinks
            .into_iter()
            .map(|value| Self::read(registry, value, reader))
            .collect();
        plans.into_iter().collect()
    }

    /// Makes the sink, and everything in it.
    pub(super) fn build(self, context: &BuildContext, origin: &Sources) -> Result<Arc<dyn Sink>, Vec<Diagnostic>> {
        match self {
            Self::One(builder, places) => builder(context).map_err(|error| vec![places.explain(error, origin)]),
            Self::Fanout(plans) => Ok(Arc::new(Fanout::new(build_all(plans, context, origin)?))),
            Self::Fallback(plans) => Ok(Arc::new(Fallback::new(build_all(plans, context, origin)?))),
            Self::Route { by, routes, default } => {
                let (names, plans): (Vec<_>, Vec<_>) = routes.into_iter().unzip();
                let mut sinks = build_all(plans.into_iter().chain(default.map(|plan| *plan)), context, origin)?;
                let default = if sinks.len() > names.len() { sinks.pop() } else { None };
                let routes: HashMap<_, _> = names.into_iter().zip(sinks).collect();
                Ok(Arc::new(Route::new(by, routes, default)))
            }
        }
    }
}

fn build_all(
    plans: impl IntoIterator<Item = SinkPlan>,
    context: &BuildContext,
    origin: &Sources,
) -> Result<Vec<Arc<dyn Sink>>, Vec<Diagnostic>> {
    let (mut sinks, mut mistakes) = (Vec::new(), Vec::new());
    for plan in plans {
        match plan.build(context, origin) {
            Ok(sink) => sinks.push(sink),
            Err(more) => mistakes.extend(more),
        }
    }
    if mistakes.is_empty() { Ok(sinks) } else { Err(mistakes) }
}

fn refuse_rest(table: &toml::de::DeTable<'_>, allowed: &[&str], reader: &mut Reader<'_>) {
    for key in table.keys() {
        let diagnostic = reader.unknown("key", key.get_ref(), allowed, key.span());
        reader.error(diagnostic);
    }
}
