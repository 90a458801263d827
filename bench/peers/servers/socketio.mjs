// Socket.IO on Node: whatever one says, everyone is sent, by its own emit to all.
import { createServer } from "node:http";
import { Server } from "socket.io";

const http = createServer();
const io = new Server(http, { transports: ["websocket"] });
io.on("connection", (socket) => {
  socket.on("say", (text) => io.emit("say", text));
});
http.listen(Number(process.env.PORT), "127.0.0.1");
