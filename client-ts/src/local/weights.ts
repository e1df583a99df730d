/**
 * The model's file: fetched from the server in parts. Each complete part is stored, so that a download continues after
 * a reload.
 */

import type { CaudalClient } from "../client.ts";
import { ConnectionError, ProtocolError } from "../errors.ts";
import { httpError } from "../http.ts";
import type { Model } from "../types.ts";
import { type Folder, readJson } from "./folder.ts";

const PART = 16 << 20;
const MANIFEST = "manifest.json";

/** The description of the file, stored for use without a server. */
export interface Manifest {
  model: Model;
  sha256: string;
  bytes: number;
}

export class Weights {
  readonly #client: CaudalClient;
  readonly #folder: Folder | undefined;
  readonly #model: string | undefined;

  constructor(client: CaudalClient, folder: Folder | undefined, model: string | undefined) {
    this.#client = client;
    this.#folder = folder;
    this.#model = model;
  }

  /** `true`: fetched parts survive a reload. */
  get kept(): boolean {
    return this.#folder !== undefined;
  }

  /** Asks the server which file it has. Rejects with `ConnectionError` if the server cannot be reached. */
  async asked(): Promise<Manifest> {
    const { models } = this.#client;
    const model = this.#model === undefined ? (await models.list())[0] : await models.retrieve(this.#model);
    if (!model) throw new ProtocolError("The server has no model.");
    const answer = await this.#answer(models.file(model.id, { range: [0, 0] }));
    const bytes = Number(answer.headers.get("content-range")?.split("/")[1]);
    const sha256 = /^"sha256-(\w+)"$/.exec(answer.headers.get("etag") ?? "")?.[1];
    if (!(bytes > 0) || !sha256)
      throw new ProtocolError("The server does not identify the model's file: no `content-range` or `etag`.");
    return { model, sha256, bytes };
  }

  /** Returns the manifest of the last download, if it was of this model. */
  async stored(): Promise<Manifest | undefined> {
    const manifest = await readJson<Manifest>(this.#folder, MANIFEST);
    const { id, aliases } = manifest?.model ?? {};
    return this.#model === undefined || this.#model === id || aliases?.includes(this.#model) ? manifest : undefined;
  }

  /** Counts the bytes of the file that are stored. */
  async storedBytes(manifest: Manifest): Promise<number> {
    const parts = await Promise.all(partsOf(manifest).map((part) => this.#read(part)));
    return parts.reduce((sum, part) => sum + (part?.size ?? 0), 0);
  }

  /** Fetches the missing parts and resolves to the file. Calls `onBytes` with the number of bytes so far. */
  async fetch(manifest: Manifest, onBytes: (bytes: number) => void, signal?: AbortSignal): Promise<Blob> {
    const parts = partsOf(manifest);
    await this.#tidy(new Set([MANIFEST, ...parts.map(({ name }) => name)]));
    await this.#folder?.write(MANIFEST, JSON.stringify(manifest));
    const blobs: Blob[] = [];
    let bytes = 0;
    for (const part of parts) {
      const known = await this.#read(part);
      const blob = known ?? (await this.#fetch(manifest, part, (more) => onBytes(bytes + more), signal));
      if (!known) await this.#folder?.write(part.name, blob);
      blobs.push((await this.#read(part)) ?? blob);
      bytes += blob.size;
      onBytes(bytes);
    }
    return new Blob(blobs);
  }

  async delete(): Promise<void> {
    await this.#tidy(new Set());
  }

  async #read({ name, first, last }: Part): Promise<Blob | undefined> {
    const blob = await this.#folder?.read(name);
    return blob?.size === last - first + 1 ? blob : undefined;
  }

  async #fetch(
    { model, sha256 }: Manifest,
    { first, last }: Part,
    onBytes: (bytes: number) => void,
    signal?: AbortSignal,
  ): Promise<Blob> {
    const options = { range: [first, last] as const, sha256, ...(signal && { signal }) };
    const answer = await this.#answer(this.#client.models.file(model.id, options));
    const pieces: BlobPart[] = [];
    let bytes = 0;
    const reader = answer.body?.getReader();
    for (let read = await reader?.read(); read && !read.done; read = await reader?.read()) {
      pieces.push(read.value as Uint8Array<ArrayBuffer>);
      bytes += read.value.length;
      onBytes(bytes);
    }
    if (bytes !== last - first + 1) throw new ConnectionError("The download of the model's file ended early.");
    return new Blob(pieces);
  }

  async #answer(asked: Promise<Response>): Promise<Response> {
    const answer = await asked.catch((cause: unknown) => {
      throw new ConnectionError("The model's file cannot be fetched: network error.", { cause });
    });
    if (answer.status !== 206) throw await httpError(answer);
    return answer;
  }

  async #tidy(wanted: ReadonlySet<string>): Promise<void> {
    const names = (await this.#folder?.names()) ?? [];
    await Promise.all(names.filter((name) => !wanted.has(name)).map((name) => this.#folder?.remove(name)));
  }
}

interface Part {
  name: string;
  first: number;
  last: number;
}

function partsOf({ sha256, bytes }: Manifest): Part[] {
  return Array.from({ length: Math.ceil(bytes / PART) }, (_, at) => ({
    name: `${sha256}-${at}`,
    first: at * PART,
    last: Math.min(bytes, (at + 1) * PART) - 1,
  }));
}
