#include "core/graph.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "core/error.h"
#include "core/ops/constant.h"

namespace torchweld {

const OpDef* Attrs::find_def(std::type_index type) {
  const OpDef* def = op_set().find(type);
  check(def != nullptr, [&] { return std::string("op type is not in the op set: ") + type.name(); });
  return def;
}

std::string Attrs::text() const { return def_->name + def_->print(data_.get()); }

bool Attrs::operator==(const Attrs& other) const {
  if (def_ != other.def_) return false;
  if (data_ == other.data_) return true;
  if (auto* a = as<Constant>()) {
    auto* b = other.as<Constant>();
    return a->value.is_same(b->value) || (a->value.numel() <= 16 && text() == other.text());
  }
  return text() == other.text();
}

std::vector<TensorType> Node::input_types() const {
  std::vector<TensorType> types;
  types.reserve(inputs_.size());
  for (const Value* v : inputs_) types.push_back(v->type);
  return types;
}

const std::string& Node::op() const { return attrs.def().name; }

double flops_of(const Node& node) {
  std::vector<TensorType> out;
  for (const auto& v : node.outputs()) out.push_back(v->type);
  const OpDef& def = node.attrs.def();
  if (def.flops) return def.flops(node.attrs.data(), node.input_types(), out);
  double sum = 0;
  for (const TensorType& type : out) sum += static_cast<double>(type.numel());
  return def.is_view ? 0 : sum;
}

bool is_heavy(const Node& node) {
  double elements = 0;
  for (const Value* input : node.inputs()) elements += static_cast<double>(input->type.numel());
  for (const auto& output : node.outputs()) elements += static_cast<double>(output->type.numel());
  return flops_of(node) > 16 * elements;
}

Value* Graph::add_input(TensorType type) {
  auto& value = inputs_.emplace_back(std::make_unique<Value>());
  value->type = std::move(type);
  value->index_ = static_cast<int>(inputs_.size()) - 1;
  return value.get();
}

Node* Graph::add_node(Attrs attrs, const std::vector<Value*>& inputs) {
  ++changes_;
  auto owned = std::make_unique<Node>(std::move(attrs));
  Node* node = owned.get();
  node->inputs_ = inputs;
  node->origin = origin;
  std::vector<TensorType> types = node->attrs.def().infer(node->attrs.data(), node->input_types());
  for (TensorType& type : types) {
    auto& value = node->outputs_.emplace_back(std::make_unique<Value>());
    value->type = std::move(type);
    value->producer_ = node;
    value->index_ = static_cast<int>(node->outputs_.size()) - 1;
  }
  for (Value* v : inputs) v->users_.push_back(node);
  auto position = insert_point_ ? insert_point_->place_ : nodes_.end();
  node->place_ = nodes_.insert(position, std::move(owned));
  return node;
}

std::vector<Node*> Graph::node_list() const {
  std::vector<Node*> list;
  list.reserve(nodes_.size());
  for (const auto& node : nodes_) list.push_back(node.get());
  return list;
}

bool Graph::is_output(const Value* value) const {
  return std::find(outputs_.begin(), outputs_.end(), value) != outputs_.end();
}

size_t Graph::use_count(const Value* value) const {
  return value->users_.size() + static_cast<size_t>(std::count(outputs_.begin(), outputs_.end(), value));
}

void Graph::replace_uses(Value* from, Value* to) {
  if (from == to) return;
  ++changes_;
  for (Node* user : from->users_) {
    for (Value*& input : user->inputs_) {
      if (input != from) continue;
      input = to;
      to->users_.push_back(user);
    }
  }
  from->users_.clear();
  std::replace(outputs_.begin(), outputs_.end(), from, to);
}

void Graph::set_input(Node* node, size_t i, Value* value) {
  ++changes_;
  Value*& slot = node->inputs_.at(i);
  auto& old_users = slot->users_;
  old_users.erase(std::find(old_users.begin(), old_users.end(), node));
  slot = value;
  value->users_.push_back(node);
}

void Graph::infer_again(Node* node) {
  ++changes_;
  std::vector<TensorType> types = node->attrs.def().infer(node->attrs.data(), node->input_types());
  check(types.size() == node->outputs_.size(), [&] { return "number of results changed in " + node->attrs.text(); });
  for (size_t i = 0; i < types.size(); ++i) node->outputs_[i]->type = std::move(types[i]);
}

void Graph::erase(Node* node) {
  ++changes_;
  for (const auto& output : node->outputs_) {
    check(use_count(output.get()) == 0, [&] { return "erasing a node that is still read: " + node->attrs.text(); });
  }
  for (Value* input : node->inputs_) {
    auto& users = input->users_;
    users.erase(std::find(users.begin(), users.end(), node));
  }
  nodes_.erase(node->place_);
}

int Graph::sweep() {
  std::unordered_set<const Value*> kept(outputs_.begin(), outputs_.end());
  int erased = 0;
  for (auto it = nodes_.end(); it != nodes_.begin();) {
    Node* node = std::prev(it)->get();
    bool dead = std::all_of(node->outputs_.begin(), node->outputs_.end(),
                            [&](const auto& v) { return v->users_.empty() && !kept.count(v.get()); });
    if (dead) {
      erase(node);  // `it` stands after the erased node and stays valid
      ++erased;
    } else {
      --it;
    }
  }
  return erased;
}

void Graph::move_before(Node* node, Node* position) {
  ++changes_;
  nodes_.splice(position->place_, nodes_, node->place_);
}

void Graph::verify() const {
  // Words are put together for what is wrong only: this runs after every pass.
  auto fail = [](const Node& node, const std::string& what) { check(false, what + ": " + node.attrs.text()); };
  std::unordered_set<const Value*> known;
  for (const auto& input : inputs_) known.insert(input.get());
  for (const auto& node : nodes_) {
    for (const Value* input : node->inputs_) {
      if (!known.count(input)) fail(*node, "a value is read before it is computed");
      if (std::count(input->users_.begin(), input->users_.end(), node.get()) !=
          std::count(node->inputs_.begin(), node->inputs_.end(), input)) {
        fail(*node, "users of a value are out of step");
      }
    }
    std::vector<TensorType> types = node->attrs.def().infer(node->attrs.data(), node->input_types());
    if (types.size() != node->outputs_.size()) fail(*node, "number of results is wrong");
    for (size_t i = 0; i < types.size(); ++i) {
      const TensorType& given = node->outputs_[i]->type;
      // Strides are the layout pass's to choose; dtype, shape and device are the op's.
      if (given.dtype != types[i].dtype || given.shape != types[i].shape || given.device != types[i].device)
        fail(*node, "a result's type is " + to_string(given) + " and its inputs say " + to_string(types[i]));
      if (given.strides.size() != given.shape.size()) fail(*node, "strides do not fit");
      known.insert(node->outputs_[i].get());
    }
  }
  for (const Value* output : outputs_) check(known.count(output), "an output is not computed");
}

std::string Graph::text() const {
  std::unordered_map<const Value*, std::string> names;
  std::string out = "graph(";
  for (size_t i = 0; i < inputs_.size(); ++i) {
    names[inputs_[i].get()] = "%x" + std::to_string(i);
    out += (i ? ", %x" : "%x") + std::to_string(i) + ": " + to_string(inputs_[i]->type);
  }
  out += ") {\n";
  size_t next = 0;
  for (const auto& node : nodes_) {
    std::string line = "  ";
    std::string types;
    for (const auto& output : node->outputs_) {
      std::string name = "%" + std::to_string(next++);
      names[output.get()] = name;
      if (!types.empty()) {
        line += ", ";
        types += ", ";
      }
      line += name;
      types += to_string(output->type);
    }
    // A body inside the attributes is moved in by one level.
    std::string attrs = node->attrs.text();
    for (size_t at = attrs.find('\n'); at != std::string::npos; at = attrs.find('\n', at + 1))
      attrs.insert(at + 1, "  ");
    line += " = " + attrs + "(";
    for (size_t i = 0; i < node->inputs_.size(); ++i) line += (i ? ", " : "") + names.at(node->inputs_[i]);
    out += line + ") : " + types + "\n";
  }
  out += "  return ";
  for (size_t i = 0; i < outputs_.size(); ++i) out += (i ? ", " : "") + names.at(outputs_[i]);
  return out + "\n}";
}

std::unique_ptr<Graph> Graph::parse(std::string_view text) {
  TextReader in(text);
  auto graph = parse(in);
  if (!in.at_end()) in.fail("text goes on after the graph");
  return graph;
}

std::unique_ptr<Graph> Graph::parse(TextReader& in) {
  auto graph = std::make_unique<Graph>();
  std::unordered_map<std::string, Value*> values;
  auto read_value = [&] {
    in.require("%");
    std::string name = in.word();
    auto found = values.find(name);
    if (found == values.end()) in.fail("%" + name + " is not defined");
    return found->second;
  };
  in.require("graph");
  in.require("(");
  while (!in.accept(")")) {
    if (!values.empty()) in.require(",");
    in.require("%");
    std::string name = in.word();
    // The alphabet of names holds ':', which here ends the name.
    if (name.back() == ':') {
      name.pop_back();
    } else {
      in.require(":");
    }
    TensorType type;
    parse_field(in, type);
    if (!values.emplace(name, graph->add_input(type)).second) in.fail("%" + name + " is defined twice");
  }
  in.require("{");
  while (!in.accept("return")) {
    std::vector<std::string> names;
    do {
      in.require("%");
      names.push_back(in.word());
    } while (in.accept(","));
    in.require("=");
    std::string op = in.word();
    const OpDef* def = op_set().find(op);
    if (!def) in.fail("unknown op '" + op + "'");
    Attrs attrs(def, def->parse(in));
    in.require("(");
    std::vector<Value*> inputs;
    while (!in.accept(")")) {
      if (!inputs.empty()) in.require(",");
      inputs.push_back(read_value());
    }
    Node* node = graph->add_node(attrs, inputs);
    if (node->outputs_.size() != names.size())
      in.fail("'" + op + "' has " + std::to_string(node->outputs_.size()) + " results");
    if (in.accept(":")) {
      for (size_t i = 0; i < names.size(); ++i) {
        if (i) in.require(",");
        parse_field(in, node->outputs_[i]->type);
      }
    }
    for (size_t i = 0; i < names.size(); ++i) {
      if (!values.emplace(names[i], node->output(i)).second) in.fail("%" + names[i] + " is defined twice");
    }
  }
  if (in.peek() == '%') {
    do {
      graph->add_output(read_value());
    } while (in.accept(","));
  }
  in.require("}");
  return graph;
}

std::unique_ptr<Graph> Graph::clone() const {
  auto copy = std::make_unique<Graph>();
  std::unordered_map<const Value*, Value*> values;
  for (const auto& input : inputs_) values[input.get()] = copy->add_input(input->type);
  for (const auto& node : nodes_) {
    std::vector<Value*> inputs;
    for (const Value* v : node->inputs_) inputs.push_back(values.at(v));
    copy->origin = node->origin;
    Node* added = copy->add_node(node->attrs, inputs);
    for (size_t i = 0; i < node->outputs_.size(); ++i) {
      added->outputs_[i]->type = node->outputs_[i]->type;
      values[node->outputs_[i].get()] = added->output(i);
    }
  }
  for (const Value* output : outputs_) copy->add_output(values.at(output));
  return copy;
}

}  // namespace torchweld
