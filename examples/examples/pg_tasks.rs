//! Tasks over PostgreSQL: `cargo run -p dispatch-examples --example pg_tasks`, with `DISPATCHERD_CONFIG_FILE` set to a
//! dispatcher.yml. Python publishers of that file start these tasks, too.
use dispatch_core::{
    BoxError, Error, Pipeline,
    config::{StoreConfig, StoreContext},
    store::QueueSource,
    telemetry::Meter,
};
use dispatch_sinks::{
    pg_notify::{PgNotifySink, PgNotifySinkConfig},
    queue::{QueueSink, QueueSinkConfig},
    tasks::{Publisher, State, Task, Tasks},
};
use dispatch_sources::{
    dispatcherd::{Publishes, Settings},
    pg_notify::PgNotifySource,
};
use dispatch_store::PostgresConfig;
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
    let commands = source.commands().clone();
    let tasks = Tasks::new()
        .state("hello world!!")
        .handle(print_hello)
        .answering(&commands);
    let mut service = Pipeline::builder("pg_tasks")
        .commands(commands.clone())
        .source(source)
        .sink(tasks);
    // The one key that makes the tasks of Python publishers durable does the same here.
    let publisher = match settings.publishes()? {
        Publishes::Notify(broker) => {
            let sink = PgNotifySinkConfig::new(broker.dsn()?, broker.publish_template()?);
            Publisher::over(PgNotifySink::new(sink)?)
        }
        Publishes::Queue(broker) => {
            let mut config = PostgresConfig::new(broker.url()?);
            config.schema.clone_from(&broker.schema);
            let store = config.build(&StoreContext { base_dir: ".".into() })?;
            for queue in &broker.channels {
                let queue = QueueSource::new(store.clone(), queue.as_str()).ordered(true);
                service = service.source(queue.answering(&commands, &Meter::default()));
            }
            service = service.store(store.clone());
            Publisher::over(QueueSink::new(QueueSinkConfig::by(broker.publish_template()?), store)?)
        }
    };
    let service = service.build()?;
    let handle = service.handle();
    let running = tokio::spawn(service.run_until(dispatch_core::asked_to_end()));

    while handle.status().delivered == 0 {
        // A notification reaches who listens already; what is durable waits.
        publisher.delay(&PrintHello {}).await?;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    handle.drain();
    println!("{:?}", running.await??);
    Ok(())
}
