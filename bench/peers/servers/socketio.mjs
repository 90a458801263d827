// Socket.IO on Node: whatever one says in a room, everyone there is sent, by its own emit to a room.
import { createServer } from "node:http";
import { Server } from "socket.io";

const http = createServer();
const io = new Server(http, { transports: ["websocket"] });
io.on("connection", (socket) => {
  socket.on("join", async (room) => {
    await socket.join(room);
    socket.emit("joined");
  });
  socket.on("say", (room, text) => io.to(room).emit("say", text));
});
http.listen(Number(process.env.PORT), "127.0.0.1");
