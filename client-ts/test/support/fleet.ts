import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort, startRedis } from "./redis.ts";
import { type Server, startServer } from "./server.ts";

const TEMPLATE = new URL("../../../config/nginx/caudal.conf.template", import.meta.url);

export interface Fleet {
  /** The address of nginx. */
  url: string;
  /** Kills and restarts the replicas one after the other, so that every generation loses its replica. */
  killEach(): Promise<void>;
  stop(): Promise<void>;
}

/** Starts two replicas on one Redis behind nginx, with the project's nginx configuration. */
export async function startFleet(settings: Record<string, string | number>): Promise<Fleet> {
  const redis = await startRedis();
  const shared = { ...settings, "store.kind": "redis", "store.redis.url": redis.url };
  const ports = [await freePort(), await freePort()];
  const start = (port: number): Promise<Server> => startServer({ ...shared, "server.bind": `127.0.0.1:${port}` });
  const replicas = await Promise.all(ports.map(start));
  const nginx = await startNginx(ports);
  return {
    url: nginx.url,
    killEach: async () => {
      for (const [index, port] of ports.entries()) {
        await replicas[index]?.stop();
        replicas[index] = await start(port);
      }
    },
    stop: async () => {
      await nginx.stop();
      for (const replica of replicas) await replica.stop();
      await redis.stop();
    },
  };
}

async function startNginx(ports: readonly number[]): Promise<{ url: string; stop(): Promise<void> }> {
  const folder = await mkdtemp(join(tmpdir(), "caudal-nginx-"));
  await mkdir(join(folder, "logs"));
  const listen = `127.0.0.1:${await freePort()}`;
  const [first, second] = ports.map((port) => `127.0.0.1:${port}`);
  const values: Record<string, string> = {
    RESOLVER: "",
    RESOLVE: "",
    LISTEN: listen,
    REPLICA_1: first ?? "",
    REPLICA_2: second ?? "",
    // The template has three replicas.
    REPLICA_3: second ?? "",
  };
  const site = (await readFile(TEMPLATE, "utf8")).replace(/\$\{(\w+)\}/g, (_, name: string) => values[name] ?? "");
  const temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(
    (kind) => `${kind}_temp_path ${folder}/${kind};`,
  );
  const config = `daemon off; worker_processes 1; pid ${folder}/pid; error_log ${folder}/logs/error.log;
    events { worker_connections 1024; }
    http { access_log off; ${temp.join(" ")} ${site} }`;
  await writeFile(join(folder, "nginx.conf"), config);
  const child = spawn("nginx", ["-p", folder, "-c", join(folder, "nginx.conf")], { stdio: "ignore" });
  await once(child, "spawn");
  const exited = once(child, "exit");
  const url = `http://${listen}`;
  for (let waited = 0; ; waited += 20) {
    const answer = await fetch(`${url}/readyz`).catch(() => undefined);
    if (answer?.ok) break;
    if (waited > 10_000)
      throw new Error(await readFile(join(folder, "logs/error.log"), "utf8").catch(() => "no nginx"));
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return {
    url,
    stop: async () => {
      child.kill("SIGTERM");
      await exited;
      await rm(folder, { recursive: true, force: true });
    },
  };
}
