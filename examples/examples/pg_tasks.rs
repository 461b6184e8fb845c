//! Tasks over PostgreSQL: `cargo run -p dispatch-examples --example pg_tasks`, with `DISPATCHERD_CONFIG_FILE` set to a
//! dispatcher.yml. Python publishers of that file start these tasks, too.
use dispatch_core::{BoxError, Error, Pipeline, config::Template};
use dispatch_sinks::{
    pg_notify::{PgNotifySink, PgNotifySinkConfig},
    tasks::{Publisher, State, Task, Tasks},
};
use dispatch_sources::{dispatcherd::Settings, pg_notify::PgNotifySource};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct PrintHello {}

impl Task for PrintHello {
    const NAME: &'static str = "test_methods.print_hello";
}

async fn print_hello(_: PrintHello, State(greeting): State<&'static str>) -> Result<(), Error> {
    println!("{greeting}");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let settings = Settings::find().map_err(|error| error.to_string())?; // or Settings::from_file, or Settings::from_value
    let source = PgNotifySource::open(settings.source()?)?; // with the file's schedules, tasks of the start, socket, node_id, …
    let tasks = Tasks::new().state("hello world!!").handle(print_hello);
    let tasks = tasks.answering(source.commands());
    let service = Pipeline::builder("pg_tasks").source(source).sink(tasks).build()?;
    let handle = service.handle();
    let running = tokio::spawn(service.run_until(dispatch_core::asked_to_end()));

    let broker = settings.pg_notify()?;
    let channel = broker.publish_channel()?;
    let queue = format!("{{{{ header:queue | default {channel:?} }}}}").parse::<Template>()?;
    let publisher = Publisher::over(PgNotifySink::new(PgNotifySinkConfig::new(broker.dsn()?, queue))?);
    while handle.status().delivered == 0 {
        // A notification reaches whoever listens already.
        publisher.delay(&PrintHello {}).await?;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    handle.drain();
    println!("{:?}", running.await??);
    Ok(())
}
