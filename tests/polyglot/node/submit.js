// A service's own transaction in Node, with a job in it: writes an order, submits, and commits or rolls back.
//
// Used by test_submit_v1.py: node submit.js commit|rollback, with a JSON object {order, tenant, method, request (base64),
// requestId, options} on stdin and the database in PGHOST, PGPORT, …. Prints {"job": "…"} or {"sqlstate": "…", "message": "…"}.
import { text } from "node:stream/consumers";
import pg from "pg";

const end = process.argv[2];
const call = JSON.parse(await text(process.stdin));
const client = new pg.Client();
await client.connect();
try {
  await client.query("begin");
  await client.query("insert into orders (number) values ($1)", [call.order]);
  const submitted = await client.query("select rowcall.submit_v1($1, $2, $3, $4, $5) as job", [
    call.tenant,
    call.method,
    Buffer.from(call.request, "base64"),
    call.requestId,
    call.options,
  ]);
  await client.query(end);
  if (end === "commit") await client.query("select rowcall.wake_v1()");
  console.log(JSON.stringify({ job: submitted.rows[0].job }));
} catch (error) {
  await client.query("rollback");
  console.log(JSON.stringify({ sqlstate: error.code, message: error.message }));
} finally {
  await client.end();
}
