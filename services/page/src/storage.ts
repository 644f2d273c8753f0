/** What the page remembers. Storage may be closed to it (private windows, full disks): then it forgets, and works. */

export function remember(key: string, value: string | null, storage: "local" | "session" = "local"): void {
  try {
    const place = storage === "local" ? localStorage : sessionStorage;
    if (value === null) place.removeItem(key);
    else place.setItem(key, value);
  } catch {
    // see above
  }
}

export function recall(key: string, storage: "local" | "session" = "local"): string | null {
  try {
    return (storage === "local" ? localStorage : sessionStorage).getItem(key);
  } catch {
    return null;
  }
}

const STORE = "files";

function opened(): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open("convoy", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function inStore<T>(mode: IDBTransactionMode, act: (store: IDBObjectStore) => IDBRequest<T>): Promise<T | null> {
  try {
    const database = await opened();
    try {
      return await new Promise<T>((resolve, reject) => {
        const request = act(database.transaction(STORE, mode).objectStore(STORE));
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
      });
    } finally {
      database.close();
    }
  } catch {
    return null;
  }
}

/** Keep a task's file, so that a page that was loaded anew can show it beside its result. */
export const keepFile = (name: string, file: File): Promise<unknown> => inStore("readwrite", (store) => store.put(file, name));
export const keptFile = (name: string): Promise<File | null> =>
  inStore<File | undefined>("readonly", (store) => store.get(name) as IDBRequest<File | undefined>).then((file) => file ?? null);
export const dropFile = (name: string): Promise<unknown> => inStore("readwrite", (store) => store.delete(name));
