/** Files of this origin that survive a reload of the page. */
export interface Folder {
  read(name: string): Promise<Blob | undefined>;
  /** Replaces a file atomically. */
  write(name: string, content: BlobPart): Promise<void>;
  remove(name: string): Promise<void>;
  names(): Promise<readonly string[]>;
}

/** Opens a folder in the origin's private file system; `undefined` if the browser or a private window has none. */
export async function openFolder(name: string): Promise<Folder | undefined> {
  try {
    const root = await navigator.storage.getDirectory();
    const folder = await (await root.getDirectoryHandle("caudal", { create: true })).getDirectoryHandle(name, {
      create: true,
    });
    return new PrivateFolder(folder);
  } catch {
    return undefined;
  }
}

class PrivateFolder implements Folder {
  readonly #handle: FileSystemDirectoryHandle;

  constructor(handle: FileSystemDirectoryHandle) {
    this.#handle = handle;
  }

  async read(name: string): Promise<Blob | undefined> {
    try {
      return await (await this.#handle.getFileHandle(name)).getFile();
    } catch {
      return undefined;
    }
  }

  async write(name: string, content: BlobPart): Promise<void> {
    const file = await this.#handle.getFileHandle(name, { create: true });
    const writer = await file.createWritable();
    await writer.write(content as FileSystemWriteChunkType);
    await writer.close();
  }

  async remove(name: string): Promise<void> {
    await this.#handle.removeEntry(name).catch(() => undefined);
  }

  async names(): Promise<readonly string[]> {
    const handle = this.#handle as unknown as { keys(): AsyncIterable<string> };
    const names: string[] = [];
    for await (const name of handle.keys()) names.push(name);
    return names;
  }
}

export async function readJson<T>(folder: Folder | undefined, name: string): Promise<T | undefined> {
  const file = await folder?.read(name);
  try {
    return file && (JSON.parse(await file.text()) as T);
  } catch {
    return undefined;
  }
}
