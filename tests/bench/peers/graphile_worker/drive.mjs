// Drives graphile-worker for the benchmarks: node drive.mjs prepare|fill|drain|starts DSN [COUNT]. Prints a JSON line.
// Settings for throughput: those of https://worker.graphile.org/docs/performance ("batching options").
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
const now = () => Number(process.hrtime.bigint()) / 1e6; // CLOCK_MONOTONIC, which all processes share
const tell = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);

async function start(noop, more) {
  return run({ preset: preset(more), taskList: { noop }, logger, noHandleSignals: true });
}

async function drain() {
  const pool = new Pool({ connectionString, max: 1 });
  let done = 0, began = 0;
  const runner = await start(() => { began ||= now(); done += 1; }, BATCH);
  while (done < count) await sleep(5);
  const left = async () =>
    Number((await pool.query("select count(*) from graphile_worker._private_jobs")).rows[0].count);
  while ((await left()) > 0) await sleep(2);
  const seconds = (now() - began) / 1000;
  await runner.stop();
  await pool.end();
  if (done !== count) throw new Error(`${done} of ${count} jobs were run`);
  tell({ seconds });
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

async function fill() {
  const utils = await makeWorkerUtils({ connectionString, logger });
  for (let begin = 0; begin < count; begin += 1000) {
    const many = Math.min(1000, count - begin);
    await utils.addJobs(Array.from({ length: many }, () => ({ identifier: "noop", payload })));
  }
  await utils.release();
  tell({});
}

const actions = {
  prepare: async () => { await runMigrations({ preset: preset({}), logger }); tell({}); },
  fill, drain, starts, work,
};
await actions[action]();
