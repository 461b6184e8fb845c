// Fills a queue of graphile-worker's in DATABASE_URL with BENCH_ROWS jobs, empties it, and prints how many a second.
//
//   node worker.mjs default       as it is by default: one job at a time
//   node worker.mjs concurrent    24 at a time
//   node worker.mjs batched       24 at a time with a local queue of 500 and batched completion, as its page on performance has it
import { Logger, makeWorkerUtils, run } from 'graphile-worker';
import pg from 'pg';

const modes = {
  default: {},
  concurrent: { concurrentJobs: 24, maxPoolSize: 25 },
  batched: { concurrentJobs: 24, maxPoolSize: 25, localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 },
};
const mode = modes[process.argv[2]];
const rows = Number(process.env.BENCH_ROWS);
const connectionString = process.env.DATABASE_URL;
const logger = new Logger(() => () => {});
const preset = { worker: { connectionString, logger, ...mode } };

const utils = await makeWorkerUtils({ preset });
await utils.migrate();
await utils.withPgClient((client) =>
  client.query("SELECT count(graphile_worker.add_job('nothing', $1::json)) FROM generate_series(1, $2::int)", [
    process.env.BENCH_PAYLOAD,
    rows,
  ]),
);
await utils.release();

const watcher = new pg.Client({ connectionString });
await watcher.connect();
let done = 0;
let all;
const called = new Promise((resolve) => (all = resolve));
const began = process.hrtime.bigint();
const runner = await run({
  preset,
  noHandleSignals: true,
  taskList: {
    nothing: () => {
      done += 1;
      if (done === rows) all();
    },
  },
});
await called;
// The last completions are on their way.
for (;;) {
  const { rows: left } = await watcher.query('SELECT EXISTS (SELECT FROM graphile_worker.jobs) AS some');
  if (!left[0].some) break;
}
const seconds = Number(process.hrtime.bigint() - began) / 1e9;
await runner.stop();
await watcher.end();
console.log(rows / seconds);
