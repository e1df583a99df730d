import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";

export interface Network {
  url: string;
  /** The address to which new connections go. */
  target: string;
  /** The number of connections that were accepted so far. */
  readonly accepted: number;
  /**
   * Called with each piece of the server's data before it is forwarded (a server's frames are not masked, so they are
   * plain text). "pass" forwards it, "cut" drops it and kills the connection, "hold" holds it and all later data back,
   * like a dead network.
   */
  onServerData: (data: string) => "pass" | "cut" | "hold";
  cut(): void;
  close(): Promise<void>;
}

/** Starts a proxy that the test can break. */
export async function startProxy(target: string): Promise<Network> {
  const open = new Set<Socket>();
  let accepted = 0;
  const server = createServer((client) => {
    accepted++;
    const { hostname, port } = new URL(proxy.target);
    const upstream = connect(Number(port), hostname);
    let held = false;
    const kill = (): void => {
      for (const socket of [client, upstream]) {
        open.delete(socket);
        socket.destroy();
      }
    };
    for (const socket of [client, upstream]) {
      open.add(socket);
      socket.on("error", kill).on("close", kill);
    }
    client.on("data", (data) => {
      if (!held) upstream.write(data);
    });
    upstream.on("data", (data) => {
      if (held) return;
      const verdict = proxy.onServerData(data.toString("utf8"));
      if (verdict === "pass") client.write(data);
      if (verdict === "cut") kill();
      held = verdict === "hold";
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const proxy: Network = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    target,
    get accepted() {
      return accepted;
    },
    onServerData: () => "pass",
    cut: () => {
      for (const socket of open) socket.destroy();
    },
    close: async () => {
      proxy.cut();
      server.close();
      await once(server, "close");
    },
  };
  return proxy;
}
