// Messages between page and server: safetensors, as `wire.py` has them. All little-endian.

const KINDS = { F32: Float32Array, U8: Uint8Array, I8: Int8Array, U16: Uint16Array };

/** Reads a message: {arrays: {name: {data, shape}}, words: {name: text}}. */
export function unpack(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const arrays = {};
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const [start, end] = entry.data_offsets.map((offset) => offset + 8 + length);
    arrays[name] = { data: new KINDS[entry.dtype](buffer.slice(start, end)), shape: entry.shape };
  }
  return { arrays, words: header.__metadata__ ?? {} };
}

/** Makes a message of {name: {data, shape}}. */
export function pack(arrays) {
  const header = {};
  let offset = 0;
  for (const [name, { data, shape }] of Object.entries(arrays)) {
    const dtype = Object.keys(KINDS).find((kind) => data instanceof KINDS[kind]);
    header[name] = { dtype, shape, data_offsets: [offset, offset + data.byteLength] };
    offset += data.byteLength;
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const message = new Uint8Array(8 + text.length + offset);
  new DataView(message.buffer).setBigUint64(0, BigInt(text.length), true);
  message.set(text, 8);
  Object.values(arrays).reduce((at, { data }) => {
    message.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    return at + data.byteLength;
  }, 8 + text.length);
  return message;
}
