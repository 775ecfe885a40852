// Drives graphile-worker for the benchmarks: node drive.mjs prepare|fill|drain|starts|stream DSN [COUNT or SECONDS]. Prints a JSON line.
// Settings for throughput: those of https://worker.graphile.org/docs/performance ("batching options").
// In bulk: addJobs, as https://worker.graphile.org/docs/library/add-job has it for many, by 1,000.
// The package is found from the working directory, where the benchmark has installed it.
import { createRequire } from "node:module";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

const require = createRequire(`${process.cwd()}/`);
const { run, runMigrations, makeWorkerUtils, Logger } = require("graphile-worker");
const { Pool } = require("pg");

const [action, connectionString, countText] = process.argv.slice(2);
const count = Number(countText ?? 0);
const logger = new Logger(() => () => {});
const payload = { payload: "x".repeat(186) }; // 200 bytes as JSON
const BATCH = { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 };
const preset = (more) => ({ worker: { connectionString, concurrentJobs: 24, maxPoolSize: 25, ...more }, });
const PRODUCERS = 8; // in bulk, as many as ours
const BACKLOG = 5000;
const now = () => Number(process.hrtime.bigint()) / 1e6; // CLOCK_MONOTONIC, which all processes share
const tell = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);

async function start(noop, more) {
  return run({ preset: preset(more), taskList: { noop }, logger, noHandleSignals: true });
}

const looking = () => new Pool({ connectionString, max: 1 });
const rows = async (pool) =>
  Number((await pool.query("select count(*) from graphile_worker._private_jobs")).rows[0].count);

async function drain() {
  const pool = looking();
  let done = 0, began = 0;
  const runner = await start(() => { began ||= now(); done += 1; }, BATCH);
  while (done < count) await sleep(5);
  while ((await rows(pool)) > 0) await sleep(2);
  const seconds = (now() - began) / 1000;
  await runner.stop();
  await pool.end();
  if (done !== count) throw new Error(`${done} of ${count} jobs were run`);
  tell({ seconds });
}

async function stream() {
  const pool = looking();
  const utils = await makeWorkerUtils({ connectionString, logger });
  let done = 0, enqueued = 0;
  const runner = await start(() => { done += 1; }, BATCH);
  const began = now();
  while (now() < began + count * 1000) {
    if (enqueued - done >= BACKLOG) { await sleep(1); continue; }
    await enqueue(utils, 1000);
    enqueued += 1000;
  }
  while (done < enqueued) await sleep(5);
  while ((await rows(pool)) > 0) await sleep(2);
  const seconds = (now() - began) / 1000;
  await runner.stop();
  await utils.release();
  tell({ seconds, enqueued, done, left: await rows(pool) });
  await pool.end();
}

async function work() {
  await start(() => tell({ at: now() }), {});
  tell({ ready: true });
}

async function starts() {
  const worker = spawn(process.execPath, [process.argv[1], "work", connectionString], { stdio: ["ignore", "pipe", "inherit"] });
  const lines = createInterface({ input: worker.stdout })[Symbol.asyncIterator]();
  const line = async () => JSON.parse((await lines.next()).value);
  await line();
  const utils = await makeWorkerUtils({ connectionString, logger });
  const milliseconds = [];
  for (let number = -10; number < count; number += 1) {
    await sleep(5 + Math.random() * 25);
    const before = now();
    await utils.addJob("noop", payload);
    const took = (await line()).at - before;
    if (number >= 0) milliseconds.push(took); // the first ones connect
  }
  await utils.release();
  worker.kill();
  tell({ milliseconds });
}

const enqueue = (utils, many) =>
  utils.addJobs(Array.from({ length: many }, () => ({ identifier: "noop", payload })));

async function fill() {
  const pool = looking();
  const utils = await makeWorkerUtils({ connectionString, logger });
  const before = await rows(pool);
  let next = 0;
  const produce = async () => {
    for (let begin; (begin = next) < count;) {
      next += 1000;
      await enqueue(utils, Math.min(1000, count - begin));
    }
  };
  const began = now();
  await Promise.all(Array.from({ length: PRODUCERS }, produce));
  const seconds = (now() - began) / 1000;
  await utils.release();
  tell({ seconds, rows: (await rows(pool)) - before });
  await pool.end();
}

const actions = {
  prepare: async () => { await runMigrations({ preset: preset({}), logger }); tell({}); },
  fill, drain, starts, stream, work,
};
await actions[action]();
